// SPDX-License-Identifier: GPL-2.0

// Runs containerd's own suite of snapshotters against ubsnapd. UBSNAPD is its path. Each test of
// the suite has its own daemon, because the tests use the same keys.
package suite

import (
	"context"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"syscall"
	"testing"

	snapshotsapi "github.com/containerd/containerd/api/services/snapshots/v1"
	"github.com/containerd/containerd/pkg/testutil"
	"github.com/containerd/containerd/snapshots"
	"github.com/containerd/containerd/snapshots/proxy"
	"github.com/containerd/containerd/snapshots/testsuite"
	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"
)

// removeAll removes what a test has left, children first.
func removeAll(ctx context.Context, sn snapshots.Snapshotter) error {
	for {
		var names []string
		err := sn.Walk(ctx, func(_ context.Context, info snapshots.Info) error {
			names = append(names, info.Name)
			return nil
		})
		if err != nil || len(names) == 0 {
			return err
		}
		removed := 0
		for _, name := range names {
			if err = sn.Remove(ctx, name); err == nil {
				removed++
			}
		}
		if removed == 0 {
			return fmt.Errorf("%d snapshots cannot be removed: %w", len(names), err)
		}
	}
}

// A daemon is a running ubsnapd and a connection to it.
type daemon struct {
	snapshots.Snapshotter
	process    *exec.Cmd
	connection *grpc.ClientConn
	root       string
}

func spawn(root string) (*daemon, error) {
	address := filepath.Join(root, "ubsnapd.sock")
	process := exec.Command(os.Getenv("UBSNAPD"), "--root", root, "--address", address)
	process.Stderr = os.Stderr
	if err := process.Start(); err != nil {
		return nil, err
	}
	connection, err := grpc.Dial("unix://"+address,
		grpc.WithTransportCredentials(insecure.NewCredentials()),
		grpc.WithDefaultCallOptions(grpc.WaitForReady(true)))
	if err != nil {
		return nil, err
	}
	sn := proxy.NewSnapshotter(snapshotsapi.NewSnapshotsClient(connection), "unionblk")
	return &daemon{sn, process, connection, root}, nil
}

// signal ends the process.
func (d *daemon) signal(signal syscall.Signal) error {
	d.connection.Close()
	if err := d.process.Process.Signal(signal); err != nil {
		return err
	}
	err := d.process.Wait()
	if signal == syscall.SIGKILL {
		return nil
	}
	return err
}

// end removes all snapshots, and then checks that the daemon leaves no image behind.
func (d *daemon) end(ctx context.Context) error {
	removed := removeAll(ctx, d)
	if err := d.signal(syscall.SIGTERM); err != nil {
		return err
	}
	left, err := filepath.Glob(filepath.Join(d.root, "leaves", "*"))
	if removed == nil && err == nil && len(left) > 0 {
		return fmt.Errorf("images are left: %v", left)
	}
	return removed
}

func start(ctx context.Context, root string) (snapshots.Snapshotter, func() error, error) {
	d, err := spawn(root)
	if err != nil {
		return nil, nil, err
	}
	return d, func() error { return d.end(ctx) }, nil
}

func TestSnapshotterSuite(t *testing.T) {
	testutil.RequiresRoot(t)
	testsuite.SnapshotterSuite(t, "unionblk", start)
}
