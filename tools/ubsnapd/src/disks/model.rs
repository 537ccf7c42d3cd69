// SPDX-License-Identifier: GPL-2.0

//! A model of leaves and unions for the tests of the daemon. It outlives the daemon, as the kernel
//! does, and ends it at any step.

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};

use super::{AttachedUnion, Disks, FrozenLayer};
use crate::error::{Error, Result};
use crate::snapshot::{Id, Leaf};

/// The bytes that each mount writes.
pub const WRITTEN: u64 = 4096;

#[derive(Clone, Debug)]
struct ModelImage {
    uuid: Id,
    seal: Option<Id>,
    layers: Vec<FrozenLayer>,
    bytes: u64,
    /// The bytes that were written to it.
    used: u64,
    /// Whether its file system was mounted when the power failed, or when it was frozen.
    dirty: bool,
}

impl ModelImage {
    fn foreign() -> ModelImage {
        ModelImage {
            uuid: Id([0xee; 16]),
            seal: None,
            layers: Vec::new(),
            bytes: 0,
            dirty: false,
            used: 0,
        }
    }
}

#[derive(Clone, Debug)]
struct OnLeaf {
    number: u32,
    read_only: bool,
    mounted: bool,
    /// The room of its leaf.
    bytes: u64,
    /// The requests that failed, by errors and for lack of space.
    errors: u64,
    no_space: u64,
}

#[derive(Default)]
struct World {
    images: BTreeMap<u64, ModelImage>,
    unions: BTreeMap<Id, OnLeaf>,
    drawn: u128,
    step: u32,
    /// The step at which the daemon ends.
    end: Option<u32>,
    /// A freeze reports an error although it happened.
    liar: bool,
    /// No file system can be repaired.
    beyond_repair: bool,
    /// A leaf that cannot be read.
    unreadable: Option<u64>,
    /// Another program makes the next image before the daemon does.
    race: bool,
    /// The operation at which a request waits, and whether it has come there.
    stop: Option<((Stop, u64), bool)>,
}

/// An operation on a leaf at which a request can be made to wait.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Stop {
    /// A look for the union of the leaf.
    Find,
    /// A detach of that union.
    Detach,
}

/// The model; a clone is the same model.
#[derive(Clone, Default)]
pub struct Model(Arc<(Mutex<World>, Condvar)>);

/// What the daemon ends with at the step.
pub struct End;

impl Model {
    fn world(&self) -> MutexGuard<'_, World> {
        self.0 .0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Makes the next request wait that does this on the leaf of this number.
    pub fn stop_at(&self, stop: Stop, number: u64) {
        self.world().stop = Some(((stop, number), false));
    }

    /// Waits until a request has come to the stop.
    pub fn stopped(&self) {
        let is_on_its_way = |world: &mut World| matches!(world.stop, Some((_, false)));
        drop(self.0 .1.wait_while(self.world(), is_on_its_way));
    }

    /// Lets the request continue.
    pub fn let_continue(&self) {
        self.world().stop = None;
        self.0 .1.notify_all();
    }

    fn come_to(&self, stop: Stop, number: u64) {
        let mut world = self.world();
        if world.stop == Some(((stop, number), false)) {
            world.stop = Some(((stop, number), true));
            self.0 .1.notify_all();
            drop(self.0 .1.wait_while(world, |world| world.stop.is_some()));
        }
    }

    fn readable(&self, number: u64) -> Result {
        match self.world().unreadable == Some(number) {
            true => Err(Error::internal("I/O error on the leaf")),
            false => Ok(()),
        }
    }

    fn step(&self) {
        let mut world = self.world();
        world.step += 1;
        if world.end == Some(world.step) {
            drop(world);
            std::panic::panic_any(End);
        }
    }

    /// Does something, and ends the daemon before or after it if that is the step.
    fn act<T>(&self, act: impl FnOnce(&mut World) -> Result<T>) -> Result<T> {
        self.step();
        let done = act(&mut self.world());
        self.step();
        done
    }

    /// Sets the step at which the daemon ends, counted from now. Returns the steps so far.
    pub fn end_at(&self, end: Option<u32>) -> u32 {
        let mut world = self.world();
        world.end = end;
        std::mem::take(&mut world.step)
    }

    /// Mounts or unmounts a device.
    pub fn mount(&self, device: &str, mounted: bool) {
        let world = &mut *self.world();
        let mut all = world.unions.iter_mut();
        let found = all.find(|(_, union)| name(union.number) == device);
        let (uuid, union) = found.unwrap();
        union.mounted = mounted;
        let mut images = world.images.values_mut();
        if let Some(image) = images.find(|image| image.uuid == *uuid) {
            assert!(!image.dirty);
            if mounted && !union.read_only {
                image.used = WRITTEN;
            }
        }
    }

    /// Sets how many bytes are written through a device, and how many requests failed: by errors,
    /// and for lack of space.
    pub fn write(&self, device: &str, bytes: u64, (errors, no_space): (u64, u64)) {
        let world = &mut *self.world();
        let mut all = world.unions.iter_mut();
        let found = all.find(|(_, union)| name(union.number) == device);
        let (uuid, union) = found.unwrap();
        (union.errors, union.no_space) = (errors, no_space);
        let mut images = world.images.values_mut();
        images.find(|image| image.uuid == *uuid).unwrap().used = bytes;
    }

    /// Makes repairs fail.
    pub fn fail_repairs(&self, fail: bool) {
        self.world().beyond_repair = fail;
    }

    /// Makes the next freezes report an error although they happened.
    pub fn lie(&self, liar: bool) {
        self.world().liar = liar;
    }

    /// Makes a leaf one that cannot be read, or all readable.
    pub fn fail_reads(&self, number: Option<u64>) {
        self.world().unreadable = number;
    }

    /// Loses all unions, as a power failure does.
    pub fn power_failure(&self) {
        let world = &mut *self.world();
        for (uuid, union) in std::mem::take(&mut world.unions) {
            let mut images = world.images.values_mut();
            if let Some(image) = images.find(|image| image.uuid == uuid) {
                image.dirty |= union.mounted && !union.read_only;
            }
        }
    }

    /// Makes another program win the place of the next image.
    pub fn race(&self) {
        self.world().race = true;
    }

    /// Adds an image that the daemon does not know.
    pub fn add(&self, number: u64) {
        self.world().images.insert(number, ModelImage::foreign());
    }

    /// Returns the numbers of all images, and the UUIDs of the leaves of all unions.
    pub fn left(&self) -> (Vec<u64>, Vec<Id>) {
        let world = self.world();
        let unions = world.unions.keys().copied();
        (world.images.keys().copied().collect(), unions.collect())
    }

    /// Returns the room that a union has in its leaf.
    pub fn room(&self, device: &str) -> u64 {
        let world = self.world();
        let mut all = world.unions.values();
        all.find(|u| name(u.number) == device).unwrap().bytes
    }

    /// Returns the layers and the size of a leaf.
    pub fn leaf(&self, number: u64) -> (Vec<FrozenLayer>, u64) {
        let world = self.world();
        let image = &world.images[&number];
        (image.layers.clone(), image.bytes)
    }
}

fn name(number: u32) -> String {
    format!("/dev/unionblk{number}")
}

impl World {
    fn draw(&mut self) -> Id {
        self.drawn += 1;
        Id(self.drawn.to_be_bytes())
    }

    fn union(&mut self, number: u64, read_only: bool) {
        let (uuid, bytes) = (self.images[&number].uuid, self.images[&number].bytes);
        let taken: Vec<u32> = self.unions.values().map(|u| u.number).collect();
        let number = (0..).find(|n| !taken.contains(n)).unwrap();
        let union = OnLeaf {
            number,
            read_only,
            mounted: false,
            bytes,
            errors: 0,
            no_space: 0,
        };
        assert!(self.unions.insert(uuid, union).is_none());
    }

    fn refuse_foreign(&mut self, number: u64) -> Result {
        if !std::mem::take(&mut self.race) {
            return Ok(());
        }
        self.images.insert(number, ModelImage::foreign());
        Err(Error::foreign(Path::new("image")))
    }

    fn image(&mut self, number: u64, layers: &[FrozenLayer], bytes: u64) -> Id {
        for layer in layers {
            let image = self
                .images
                .get(&layer.leaf.number)
                .expect("a layer is gone");
            assert_eq!(
                (image.uuid, image.seal),
                (layer.leaf.uuid, Some(layer.seal))
            );
        }
        // A layer that was frozen while it was mounted has the mark of that.
        let below = layers.last().map(|layer| &self.images[&layer.leaf.number]);
        let dirty = below.is_some_and(|image| image.dirty);
        let uuid = self.draw();
        let image = ModelImage {
            uuid,
            seal: None,
            layers: layers.to_vec(),
            bytes,
            dirty,
            used: 0,
        };
        assert!(self.images.insert(number, image).is_none());
        uuid
    }

    fn frozen(&mut self, leaf: Leaf, seal: Id, mounted: bool) -> Result {
        let image = self.images.get_mut(&leaf.number).unwrap();
        assert!(image.seal.is_none() && image.uuid == leaf.uuid && !image.dirty);
        image.seal = Some(seal);
        image.dirty = mounted;
        match self.liar {
            true => Err(Error::internal("the model lies")),
            false => Ok(()),
        }
    }
}

impl Disks for Model {
    fn exists(&self, number: u64) -> bool {
        self.world().images.contains_key(&number)
    }

    fn make(&self, number: u64, layers: &[FrozenLayer], bytes: u64, read_only: bool) -> Result<Id> {
        let uuid = self.act(|world| {
            world.refuse_foreign(number)?;
            Ok(world.image(number, layers, bytes))
        })?;
        self.act(|world| {
            world.union(number, read_only);
            Ok(uuid)
        })
    }

    fn attach(&self, leaf: Leaf, layers: &[FrozenLayer], read_only: bool) -> Result<AttachedUnion> {
        self.act(|world| {
            let image = &world.images[&leaf.number];
            assert!(image.layers == layers && image.seal.is_none());
            world.union(leaf.number, read_only);
            Ok(())
        })?;
        self.find(leaf).map(Option::unwrap)
    }

    fn repair(&self, leaf: Leaf) -> Result {
        let is_mounted = self
            .world()
            .unions
            .get(&leaf.uuid)
            .is_some_and(|u| u.mounted);
        if is_mounted || !self.world().images[&leaf.number].dirty {
            return Ok(());
        }
        self.act(|world| {
            assert!(world.unions.contains_key(&leaf.uuid));
            if world.beyond_repair {
                return Err(Error::internal("e2fsck cannot repair"));
            }
            world.images.get_mut(&leaf.number).unwrap().dirty = false;
            Ok(())
        })
    }

    fn find(&self, leaf: Leaf) -> Result<Option<AttachedUnion>> {
        self.come_to(Stop::Find, leaf.number);
        let world = self.world();
        let found = world.unions.get(&leaf.uuid);
        let image = world.images.get(&leaf.number);
        Ok(found.map(|union| AttachedUnion {
            device: name(union.number),
            used: image.map_or(0, |i| i.used),
            no_space: union.no_space,
            errors: union.errors,
        }))
    }

    fn detach(&self, leaf: Leaf) -> Result<bool> {
        self.come_to(Stop::Detach, leaf.number);
        self.act(|world| {
            if world.unions.get(&leaf.uuid).is_some_and(|u| u.mounted) {
                return Ok(false);
            }
            world.unions.remove(&leaf.uuid);
            Ok(true)
        })
    }

    fn freeze(&self, leaf: Leaf, seal: Id) -> Result {
        self.act(|world| {
            assert!(!world.unions.contains_key(&leaf.uuid));
            world.frozen(leaf, seal, false)
        })
    }

    fn freeze_in_use(
        &self,
        leaf: Leaf,
        seal: Id,
        layers: &[FrozenLayer],
        next: (u64, u64),
    ) -> Result {
        let mut layers = layers.to_vec();
        layers.push(FrozenLayer { leaf, seal });
        let (number, bytes) = next;
        let uuid = self.act(|world| {
            world.refuse_foreign(number)?;
            let uuid = world.draw();
            let image = ModelImage {
                uuid,
                seal: None,
                layers,
                bytes,
                dirty: false,
                used: 0,
            };
            assert!(world.images.insert(number, image).is_none());
            Ok(uuid)
        })?;
        self.act(|world| {
            let mut union = world.unions.remove(&leaf.uuid).unwrap();
            union.bytes = bytes;
            let mounted = union.mounted;
            world.unions.insert(uuid, union);
            world.frozen(leaf, seal, mounted)
        })
    }

    fn seal(&self, number: u64) -> Result<Option<Id>> {
        self.readable(number)?;
        Ok(self.world().images.get(&number).and_then(|i| i.seal))
    }

    fn uuid(&self, number: u64) -> Result<Option<Id>> {
        self.readable(number)?;
        Ok(self.world().images.get(&number).map(|i| i.uuid))
    }

    fn used(&self, number: u64, exact: bool) -> Result<u64> {
        let world = self.world();
        let gone = || Error::internal("no such image");
        let used = world.images.get(&number).ok_or_else(gone)?.used;
        Ok(if exact { used } else { 2 * WRITTEN })
    }

    fn delete(&self, number: u64) -> Result {
        self.act(|world| {
            world.images.remove(&number);
            Ok(())
        })
    }

    fn all(&self) -> Result<Vec<u64>> {
        Ok(self.left().0)
    }

    fn random(&self) -> Result<Id> {
        Ok(self.world().draw())
    }
}
