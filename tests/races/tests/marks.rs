// SPDX-License-Identifier: GPL-2.0

//! First write, overwrite, flush, FUA, discard, reclaim, checkpoint and detach at once.

use races::scenario::{geometry, play};
use races::{explore, explore_more};
use shuttle::rand::{thread_rng, Rng};
use shuttle::thread;
use sim::host::{fresh, DeviceFeatures, Handle};
use ubcore::protocol::Host;

fn nothing(_: &Handle) {}

/// The slab has its leaf slab, and its page is warm. cloud-hypervisor's qcow2 lost bits there.
#[test]
fn writes_of_one_word_from_two_queues() {
    explore(|| {
        play(
            2,
            |u| {
                u.write(0..1, 1, false);
            },
            &[
                |u| {
                    u.write(4..6, 2, false);
                },
                |u| {
                    u.write(8..9, 3, false);
                },
                |u| {
                    u.flush();
                },
            ],
        );
    });
}

#[test]
fn first_writes_of_one_slab() {
    explore(|| {
        play(
            2,
            nothing,
            &[
                |u| {
                    u.write(4..6, 1, false);
                },
                |u| {
                    u.write(5..9, 2, false);
                },
                |u| {
                    u.flush();
                },
                |u| {
                    u.read(3..10);
                },
            ],
        );
    });
}

#[test]
fn a_fua_write_beside_another_of_its_sector() {
    explore(|| {
        play(
            2,
            nothing,
            &[
                |u| {
                    u.write(4..6, 1, false);
                },
                |u| {
                    u.write(4..6, 2, true);
                },
                |u| {
                    u.write(5..6, 3, true);
                    u.flush();
                },
            ],
        );
    });
}

/// The leaf has no FUA, or no volatile cache, so other requests end without a commit.
#[test]
fn fua_writes_and_flushes_over_other_devices() {
    explore(|| {
        play(
            2,
            |u| {
                let fua = thread_rng().gen_range(0..2) == 0;
                u.set_device(DeviceFeatures { fua, cache: !fua });
                u.write(4..6, 1, true);
            },
            &[
                |u| {
                    u.write(4..6, 2, true);
                },
                |u| {
                    u.discard(0..32);
                    u.flush();
                },
                |u| {
                    u.write(5..7, 3, false);
                    u.flush();
                },
            ],
        );
    });
}

/// There is one slab on the leaf, which passes from the emptied slab to the other.
#[test]
fn a_slab_changes_hands() {
    explore(|| {
        play(
            1,
            |u| {
                u.write(0..8, 1, false);
                u.flush();
            },
            &[
                |u| {
                    u.zero(0..32);
                    u.flush();
                },
                |u| {
                    u.write(40..44, 2, false);
                },
                |u| {
                    u.write(2..4, 3, false);
                },
                |u| {
                    u.read(0..8);
                },
            ],
        );
    });
}

/// A write completes late, after a discard has emptied its slab. The leaf slab gets its next owner
/// while a commit runs that has the late mark on its list.
#[test]
fn a_late_mark_and_the_next_owner() {
    explore(|| {
        play(
            1,
            nothing,
            &[
                |u| {
                    u.write(1..3, 2, false);
                },
                |u| {
                    u.discard(0..32);
                    u.flush();
                },
                |u| {
                    u.write(40..44, 3, true);
                },
                |u| {
                    u.flush();
                },
            ],
        );
    });
}

/// The same, with the writes in flight when the discards arrive.
#[test]
fn late_completions_beside_discards_and_new_owners() {
    explore(|| {
        play(
            2,
            |u| {
                u.write(0..2, 1, false);
            },
            &[
                |u| {
                    let a = u.write_later(1..3, 2);
                    let b = u.write_later(33..35, 3);
                    u.discard(0..64);
                    u.flush();
                    a.wait();
                    b.wait();
                },
                |u| {
                    u.write(64..70, 4, false);
                    u.flush();
                },
                |u| {
                    u.write(34..36, 5, true);
                },
            ],
        );
    });
}

#[test]
fn a_discard_beside_a_write_and_a_flush() {
    explore(|| {
        play(
            2,
            |u| {
                u.write(0..8, 1, false);
            },
            &[
                |u| {
                    u.discard(0..32);
                },
                |u| {
                    u.write(6..12, 2, false);
                },
                |u| {
                    u.flush();
                },
                |u| {
                    u.flush();
                },
            ],
        );
    });
}

#[test]
fn emptied_twice_while_a_reclaim_runs() {
    explore(|| {
        play(
            2,
            |u| {
                u.write(0..8, 1, false);
                u.write(32..40, 1, false);
                u.flush();
            },
            &[
                |u| {
                    u.zero(0..64);
                    u.flush();
                },
                |u| {
                    u.discard(32..64);
                    u.write(34..36, 2, false);
                    u.flush();
                },
                |u| {
                    u.write(64..66, 3, false);
                },
                |u| {
                    u.read(32..40);
                },
            ],
        );
    });
}

#[test]
fn checkpoints_beside_everything() {
    explore(|| {
        play(
            2,
            |u| {
                u.write(0..2, 1, false);
            },
            &[
                |u| {
                    u.write(30..34, 2, false);
                },
                |u| u.checkpoint(),
                |u| {
                    u.zero(0..32);
                    u.checkpoint();
                },
                |u| {
                    u.write(3..4, 3, true);
                    u.flush();
                },
            ],
        );
    });
}

/// The ring is more than half full, so a flush causes a checkpoint, and a discard waits for it.
#[test]
fn a_checkpoint_that_is_due_beside_discards() {
    explore(|| {
        play(
            2,
            |u| {
                for at in 0..8 {
                    u.write(at..at + 1, 1, false);
                    u.flush();
                }
            },
            &[
                |u| {
                    u.write(8..9, 2, false);
                    u.flush();
                },
                |u| {
                    u.zero(0..32);
                    u.discard(32..64);
                    u.flush();
                },
                |u| {
                    u.write(40..42, 3, true);
                },
            ],
        );
    });
}

/// A slab that is emptied while a reclaim runs does not belong to that reclaim.
#[test]
fn emptied_while_a_reclaim_runs() {
    explore(|| {
        play(
            2,
            |u| {
                u.write(0..2, 1, false);
                u.write(32..34, 1, false);
                u.zero(0..32);
            },
            &[
                |u| {
                    u.flush();
                },
                |u| {
                    u.zero(32..64);
                    u.flush();
                },
                |u| {
                    u.read(32..34);
                },
                |u| {
                    u.write(64..66, 2, false);
                },
            ],
        );
    });
}

/// The write has been answered. A read finds it or zeroes, not the content before it.
#[test]
fn emptied_beside_the_flush_of_its_write() {
    explore_more(8, || {
        play(
            3,
            |u| {
                for slab in 0..3 {
                    u.write(32 * slab..32 * slab + 2, 1, false);
                }
            },
            &[
                |u| {
                    u.zero(0..96);
                },
                |u| {
                    u.flush();
                },
            ],
        );
    });
}

/// The bits on disk are those of the previous owner of the leaf slab.
#[test]
fn a_checkpoint_while_a_slab_changes_hands() {
    explore(|| {
        play(
            1,
            |u| {
                u.write(0..8, 1, false);
                u.checkpoint();
                u.zero(0..32);
                u.flush();
            },
            &[
                |u| {
                    u.write(34..35, 2, false);
                },
                |u| u.checkpoint(),
            ],
        );
    });
}

/// The reclaim work zeroes parts of slabs while a write of the same sectors runs.
#[test]
fn parts_of_slabs_are_zeroed_beside_writes() {
    explore(|| {
        play(
            2,
            |u| {
                u.write(28..36, 1, false);
            },
            &[
                |u| {
                    u.zero(30..34);
                },
                |u| {
                    u.write(33..38, 2, false);
                    u.flush();
                },
                |u| {
                    u.discard(32..64);
                },
            ],
        );
    });
}

/// There is space for only one of two slabs, so the zeroing is refused and changes nothing.
#[test]
fn zeroing_that_finds_no_space_changes_nothing() {
    explore(|| {
        play(
            2,
            |u| {
                u.write(70..72, 1, true);
            },
            &[
                |u| {
                    u.zero(30..34);
                },
                |u| {
                    u.write(0..1, 2, false);
                },
                |u| {
                    u.read(28..36);
                },
            ],
        );
    });
}

/// A request was merged from an overwrite and writes that need two slabs, of which one is free.
/// Only the overwrite is sent. Another write takes the free slab for a sector that failed.
#[test]
fn a_merged_write_that_is_sent_in_part_beside_another() {
    explore(|| {
        play(
            2,
            |u| {
                u.write(64..72, 1, false);
            },
            &[
                |u| {
                    let done = u.write_merged(&[30..32, 32..64, 64..68], 2);
                    assert!(done[2], "an overwrite fails");
                },
                |u| {
                    u.write(0..1, 3, false);
                },
                |u| {
                    u.read(24..72);
                },
            ],
        );
    });
}

/// A merged write is sent in parts. When the first part is sent, the leaf is full, so the first bio
/// fails. Before the second part is sent, a discard may free a leaf slab, which must not be
/// allocated for the bio that has failed.
#[test]
fn a_failed_bio_gets_no_leaf_slab_later() {
    explore(|| {
        let union = fresh(geometry(2));
        union.write(0..4, 1, true);
        union.write(64..72, 1, true);
        union.set_narrow(2);
        let other = union.clone();
        let discards = thread::spawn(move || {
            other.discard(0..32);
        });
        let done = union.write_merged(&[60..64, 64..68], 2);
        assert!(done[1], "an overwrite fails");
        discards.join().expect("a discard");
        union.quiesce();
        let map = union.map();
        let owned = (0..3).filter_map(|slab| map.entry(slab).leaf_slab);
        let unused = owned.filter(|&leaf_slab| map.is_mapped(leaf_slab) == Ok(false));
        assert_eq!(unused.count(), 0, "a leaf slab is allocated for nothing");
    });
}

/// Commits, checkpoints and data writes fail. The promises of earlier answers are kept.
#[test]
fn an_access_to_the_leaf_fails() {
    explore(|| {
        play(
            2,
            |u| {
                u.write(0..8, 1, true);
                u.fail_in(Some(thread_rng().gen_range(0..12)));
            },
            &[
                |u| {
                    u.write(6..12, 2, false);
                    u.flush();
                },
                |u| {
                    u.write(34..36, 3, true);
                },
                |u| {
                    u.discard(0..32);
                    u.flush();
                },
            ],
        );
    });
}

/// A reclaim ends with a look for more slabs and finds the map clean. A discard that arrives then
/// is not durable.
#[test]
fn discards_while_a_reclaim_looks_for_more() {
    explore_more(8, || {
        play(
            3,
            |u| {
                u.write(0..96, 1, true);
                u.discard(0..32);
                u.flush();
            },
            &[
                |u| {
                    u.discard(32..64);
                },
                |u| {
                    u.discard(64..96);
                },
            ],
        );
    });
}

/// The first of two parts has changed the map when the second fails, and the timer commits the
/// change.
#[test]
fn zeroing_whose_second_part_fails() {
    explore(|| {
        play(
            3,
            |u| {
                u.write(70..72, 1, true);
                u.quiesce();
                u.fail_in(Some(thread_rng().gen_range(0..6)));
            },
            &[|u| {
                u.zero(30..34);
            }],
        );
    });
}

/// No request can be sent at first, and then two sectors at a time.
#[test]
fn requests_go_down_in_parts() {
    explore(|| {
        play(
            2,
            |u| {
                u.write(30..34, 1, false);
                u.set_narrow(2);
            },
            &[
                |u| {
                    u.write(29..35, 2, false);
                    u.flush();
                },
                |u| {
                    u.read(30..34);
                },
                |u| {
                    u.discard(0..32);
                    u.write(0..3, 3, true);
                },
            ],
        );
    });
}
