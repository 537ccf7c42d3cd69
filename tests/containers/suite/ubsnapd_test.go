// SPDX-License-Identifier: GPL-2.0

package suite

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"reflect"
	"syscall"
	"testing"

	"github.com/containerd/containerd/mount"
	"github.com/containerd/containerd/pkg/testutil"
	"github.com/containerd/containerd/snapshots"
)

const mib = 1 << 20

// A host is a daemon that can be killed, and a place to mount.
type host struct {
	*daemon
	t     *testing.T
	ctx   context.Context
	place string
}

func newHost(t *testing.T) *host {
	testutil.RequiresRoot(t)
	h := &host{t: t, ctx: context.Background(), place: t.TempDir()}
	h.restart(t.TempDir())
	return h
}

func (h *host) ok(err error) {
	h.t.Helper()
	if err != nil {
		h.t.Fatal(err)
	}
}

func (h *host) restart(root string) {
	h.t.Helper()
	d, err := spawn(root)
	h.ok(err)
	h.daemon = d
}

// kill ends the daemon at once, and starts another one.
func (h *host) kill() {
	h.t.Helper()
	h.ok(h.signal(syscall.SIGKILL))
	h.restart(h.root)
}

func (h *host) prepare(key, parent string, opts ...snapshots.Opt) []mount.Mount {
	h.t.Helper()
	mounts, err := h.Prepare(h.ctx, key, parent, opts...)
	h.ok(err)
	return mounts
}

// at mounts for the time of a call.
func (h *host) at(mounts []mount.Mount, do func()) {
	h.t.Helper()
	h.ok(mount.All(mounts, h.place))
	defer testutil.Unmount(h.t, h.place)
	do()
}

func (h *host) usage(key string) int64 {
	h.t.Helper()
	usage, err := h.Usage(h.ctx, key)
	h.ok(err)
	return usage.Size
}

func (h *host) free() uint64 {
	h.t.Helper()
	var fs syscall.Statfs_t
	h.ok(syscall.Statfs(h.root, &fs))
	return fs.Bfree * uint64(fs.Bsize)
}

// fill writes a file and makes it durable.
func fill(path string, bytes int) error {
	file, err := os.Create(path)
	if err != nil {
		return err
	}
	defer file.Close()
	chunk := make([]byte, mib)
	for i := range chunk {
		chunk[i] = byte(i*7 + 1)
	}
	for ; bytes > 0; bytes -= len(chunk) {
		if _, err = file.Write(chunk); err != nil {
			return err
		}
	}
	return file.Sync()
}

func TestKilled(t *testing.T) {
	h := newHost(t)
	file := filepath.Join(h.place, "file")
	h.kill()
	mounts := h.prepare("a", "")
	h.kill()
	// The union stays in the kernel.
	again, err := h.Mounts(h.ctx, "a")
	h.ok(err)
	if !reflect.DeepEqual(mounts, again) {
		t.Fatalf("%v is mounted as %v now", mounts, again)
	}
	h.at(mounts, func() {
		h.ok(fill(file, mib))
		h.kill()
		if size := h.usage("a"); size < mib || size > 3*mib {
			t.Errorf("1 MiB takes %d bytes", size)
		}
		// The mount continues in another leaf.
		h.ok(h.Commit(h.ctx, "base", "a"))
		h.kill()
		h.ok(fill(file, 2*mib))
	})
	for _, key := range []string{"b", "c"} {
		h.at(h.prepare(key, "base"), func() {
			stat, err := os.Stat(file)
			h.ok(err)
			if stat.Size() != mib {
				t.Errorf("%s: the file of the snapshot has %d bytes", key, stat.Size())
			}
			h.ok(os.WriteFile(filepath.Join(h.place, key), []byte(key), 0644))
		})
		h.kill()
	}
	view, err := h.View(h.ctx, "v", "base")
	h.ok(err)
	h.at(view, func() {
		if err := os.WriteFile(file, nil, 0644); !errors.Is(err, syscall.EROFS) {
			t.Errorf("a write to a view: %v", err)
		}
		// A mounted snapshot stays until it is unmounted. Its name is free.
		h.ok(h.Remove(h.ctx, "v"))
		h.kill()
		_, err := os.Stat(file)
		h.ok(err)
		h.prepare("v", "base")
	})
	h.ok(h.end(h.ctx))
}

func TestLimitAndSpace(t *testing.T) {
	h := newHost(t)
	h.prepare("a", "")
	h.ok(h.Commit(h.ctx, "base", "a"))
	before := h.free()
	size := map[string]string{"containerd.io/snapshot/max-size": "33554432"}
	small := h.prepare("small", "base", snapshots.WithLabels(size))
	large := h.prepare("large", "base")
	file := filepath.Join(h.place, "file")
	h.at(small, func() {
		if err := fill(file, 64*mib); !errors.Is(err, syscall.ENOSPC) {
			t.Errorf("64 MiB into a limit of 32: %v", err)
		}
		if size := h.usage("small"); size > 32*mib {
			t.Errorf("%d bytes are in use", size)
		}
	})
	h.at(large, func() {
		h.ok(fill(file, 64*mib))
		full := h.usage("large")
		h.ok(os.Remove(file))
		syscall.Sync()
		// The file system says at once what is free, and the union gives it back.
		if size := h.usage("large"); full < 64*mib || size > 8*mib {
			t.Errorf("%d bytes were in use, and %d are", full, size)
		}
		h.ok(fill(file, 64*mib))
	})
	if taken := before - h.free(); taken < 96*mib {
		t.Errorf("96 MiB of data take %d bytes", taken)
	}
	h.ok(h.Remove(h.ctx, "small"))
	h.ok(h.Remove(h.ctx, "large"))
	syscall.Sync()
	if after := h.free(); after+mib < before {
		t.Errorf("%d bytes are not free again", before-after)
	}
	h.ok(h.end(h.ctx))
}

// TestBeforePowerFailure and TestAfterPowerFailure have a power failure between them. PLACE is a
// directory that survives it.
func TestBeforePowerFailure(t *testing.T) {
	if os.Getenv("PLACE") == "" {
		t.Skip("needs a power failure")
	}
	h := &host{t: t, ctx: context.Background(), place: "/tmp/before"}
	h.ok(os.MkdirAll(h.place, 0755))
	root := filepath.Join(os.Getenv("PLACE"), "snapshots")
	h.ok(os.MkdirAll(root, 0755))
	h.restart(root)
	h.at(h.prepare("a", ""), func() { h.ok(fill(filepath.Join(h.place, "file"), mib)) })
	h.ok(h.Commit(h.ctx, "base", "a"))
	if _, err := h.View(h.ctx, "view", "base"); err != nil {
		t.Fatal(err)
	}
	h.ok(mount.All(h.prepare("box", "base"), h.place))
	h.ok(fill(filepath.Join(h.place, "synced"), 2*mib))
	// Much that is not synced: inodes, directories, blocks.
	for i := 0; i < 200; i++ {
		directory := filepath.Join(h.place, fmt.Sprint("d", i%20))
		h.ok(os.MkdirAll(directory, 0755))
		h.ok(os.WriteFile(filepath.Join(directory, fmt.Sprint(i)), make([]byte, i*100), 0644))
	}
	h.prepare("gone", "base")
	h.ok(h.Remove(h.ctx, "gone"))
	h.ok(h.signal(syscall.SIGKILL))
}

func TestAfterPowerFailure(t *testing.T) {
	if os.Getenv("PLACE") == "" {
		t.Skip("needs a power failure")
	}
	h := &host{t: t, ctx: context.Background(), place: t.TempDir()}
	h.restart(filepath.Join(os.Getenv("PLACE"), "snapshots"))
	kinds := map[string]snapshots.Kind{}
	h.ok(h.Walk(h.ctx, func(_ context.Context, info snapshots.Info) error {
		kinds[info.Name] = info.Kind
		return nil
	}))
	expected := map[string]snapshots.Kind{"base": snapshots.KindCommitted,
		"view": snapshots.KindView, "box": snapshots.KindActive}
	if !reflect.DeepEqual(kinds, expected) {
		t.Fatalf("%v, expected %v", kinds, expected)
	}
	for key, file := range map[string]string{"view": "file", "box": "synced"} {
		mounts, err := h.Mounts(h.ctx, key)
		h.ok(err)
		h.at(mounts, func() {
			stat, err := os.Stat(filepath.Join(h.place, file))
			h.ok(err)
			if stat.Size() < mib {
				t.Errorf("%s: %s has %d bytes", key, file, stat.Size())
			}
			if key == "box" {
				h.ok(fill(filepath.Join(h.place, "more"), 4*mib))
			}
		})
	}
	h.ok(h.Commit(h.ctx, "top", "box"))
	h.at(h.prepare("box", "top"), func() {
		_, err := os.Stat(filepath.Join(h.place, "more"))
		h.ok(err)
	})
	h.ok(h.end(h.ctx))
}
