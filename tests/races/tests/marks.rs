// SPDX-License-Identifier: GPL-2.0

//! First write, overwrite, flush, FUA, discard, release, checkpoint and detach at once.

use races::explore;
use races::scene::play;
use races::union::Union;
use ubcore::map::Base;

/// What tests/crash/mutants.sh asks first.
#[cfg(mutant)]
#[test]
fn of_a_mutant() {
    assert!(ubcore::MARK.starts_with(b"a mutant"));
}

fn nothing(_: &Union) {}

/// The slab has its home, and its page is warm: cloud-hypervisor's qcow2 lost bits there.
#[test]
fn writes_of_one_word_from_two_queues() {
    explore(|| {
        play(
            2,
            |u| u.write(0..1, 1, false),
            &[
                |u| u.write(4..6, 2, false),
                |u| u.write(8..9, 3, false),
                |u| u.flush(),
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
                |u| u.write(4..6, 1, false),
                |u| u.write(5..9, 2, false),
                |u| u.flush(),
                |u| u.read(3..10),
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
                |u| u.write(4..6, 1, false),
                |u| u.write(4..6, 2, true),
                |u| {
                    u.write(5..6, 3, true);
                    u.flush();
                },
            ],
        );
    });
}

/// One slab on the leaf: who is emptied gives way to the other.
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
                    u.empty(0..1, Base::Zero);
                    u.flush();
                    u.release();
                },
                |u| u.write(40..44, 2, false),
                |u| u.write(2..4, 3, false),
                |u| u.read(0..8),
            ],
        );
    });
}

#[test]
fn a_discard_beside_a_write_and_a_flush() {
    explore(|| {
        play(
            2,
            |u| u.write(0..8, 1, false),
            &[
                |u| u.empty(0..1, Base::Root),
                |u| u.write(6..12, 2, false),
                |u| u.flush(),
                |u| {
                    u.commit();
                    u.release();
                },
            ],
        );
    });
}

#[test]
fn emptied_twice_while_a_release_runs() {
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
                    u.empty(0..2, Base::Zero);
                    u.commit();
                    u.release();
                },
                |u| {
                    u.empty(1..2, Base::Root);
                    u.write(34..36, 2, false);
                    u.flush();
                },
                |u| u.write(64..66, 3, false),
                |u| u.read(32..40),
            ],
        );
    });
}

#[test]
fn checkpoints_beside_everything() {
    explore(|| {
        play(
            2,
            |u| u.write(0..2, 1, false),
            &[
                |u| u.write(30..34, 2, false),
                |u| u.checkpoint(),
                |u| {
                    u.empty(0..1, Base::Zero);
                    u.checkpoint();
                    u.release();
                },
                |u| {
                    u.write(3..4, 3, true);
                    u.flush();
                },
            ],
        );
    });
}

/// A write that completes late to a slab that was emptied, and commits while the next owner has its
/// home and not yet its first sector.
#[test]
fn a_late_mark_and_the_next_owner() {
    explore(|| {
        play(
            1,
            |u| u.write(0..2, 1, false),
            &[
                |u| u.write(1..3, 2, false),
                |u| {
                    u.empty(0..1, Base::Zero);
                    u.commit();
                    u.release();
                    u.commit();
                },
                |u| u.write(40..44, 3, true),
            ],
        );
    });
}

/// What is emptied while a release runs is none of its slabs.
#[test]
fn emptied_while_a_release_runs() {
    explore(|| {
        play(
            2,
            |u| {
                u.write(0..2, 1, false);
                u.write(32..34, 1, false);
                u.empty(0..1, Base::Zero);
                u.commit();
            },
            &[
                |u| u.release(),
                |u| {
                    u.empty(1..2, Base::Zero);
                    u.commit();
                },
                |u| u.read(32..34),
            ],
        );
    });
}

/// The write has been answered; it is there, or zeroes are, and not what was before.
#[test]
fn emptied_beside_the_flush_of_its_write() {
    explore(|| {
        play(
            2,
            |u| u.write(0..2, 1, false),
            &[|u| u.empty(0..1, Base::Zero), |u| u.flush()],
        );
    });
}

/// The bits on disk are those of the slab that had the space before.
#[test]
fn a_checkpoint_while_a_slab_changes_hands() {
    explore(|| {
        play(
            1,
            |u| {
                u.write(0..8, 1, false);
                u.checkpoint();
                u.empty(0..1, Base::Zero);
                u.commit();
                u.release();
            },
            &[|u| u.write(34..35, 2, false), |u| u.checkpoint()],
        );
    });
}
