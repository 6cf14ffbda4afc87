//! A disk that keeps less than it says: what was not synced is lost, kept or torn when the power goes,
//! writes fall short, syncs fail, and the disk is full for a while.

use std::{
    collections::{BTreeMap, BTreeSet},
    io,
    ops::AddAssign,
    path::{Path, PathBuf},
    sync::Arc,
};

use parking_lot::Mutex;
use redb::{Builder, Database, DatabaseError, StorageBackend};

use crate::disk::Disk;

/// The unit in which a system keeps files in memory.
const PAGE: usize = 4096;
/// The unit that a disk writes whole or not at all.
const SECTOR: usize = 512;

/// What was done to the files, by kind.
#[derive(Debug, Default, Clone, Copy, PartialEq, Eq)]
pub struct Counts {
    /// How often the power went.
    pub cuts: u64,
    /// Sectors that were not synced and were lost.
    pub sectors_lost: u64,
    /// Sectors that were not synced and were kept.
    pub sectors_kept: u64,
    /// Writes that fell short.
    pub short_writes: u64,
    /// Syncs that gave an error, behind which the files had lost or kept what was not synced.
    pub failed_syncs: u64,
    /// Writes for which there was no room.
    pub full: u64,
    /// Bits that changed by themselves.
    pub rotten_bits: u64,
}

/// What goes wrong while the power is on.
#[derive(Debug, Default, Clone, Copy)]
pub struct Faults {
    /// How many of 100 writes fall short, and give an error.
    pub short_writes: u32,
    /// How many of 100 syncs give an error.
    pub failed_syncs: u32,
    /// Whether no file can grow.
    pub full: bool,
    /// Whether each write would take for ever, so that nobody should make any.
    pub hangs: bool,
}

/// A disk with its files, in memory. Clones are one disk.
#[derive(Debug, Clone)]
pub struct LyingDisk(Arc<Mutex<Platter>>);

#[derive(Debug)]
struct Platter {
    random: fastrand::Rng,
    files: Vec<Content>,
    /// The files by name, as a running process sees them.
    names: BTreeMap<PathBuf, usize>,
    /// The files by name, as far as the names are sure to survive a cut.
    synced_names: BTreeMap<PathBuf, usize>,
    /// How often the power came back. Files that were opened before are gone.
    life: u64,
    /// How many operations are left until the power goes; `None` when it is off.
    left: Option<u64>,
    faults: Faults,
    counts: Counts,
}

/// What a file holds.
#[derive(Debug, Default, Clone)]
struct Content {
    /// What a running process reads.
    seen: Vec<u8>,
    /// What is sure to survive a cut.
    synced: Vec<u8>,
    /// What each page held after each write since the last sync.
    unsynced: BTreeMap<usize, Vec<Vec<u8>>>,
    /// The shortest that the file was since the last sync.
    shortest: Option<usize>,
}

impl AddAssign for Counts {
    fn add_assign(&mut self, other: Self) {
        self.cuts += other.cuts;
        self.sectors_lost += other.sectors_lost;
        self.sectors_kept += other.sectors_kept;
        self.short_writes += other.short_writes;
        self.failed_syncs += other.failed_syncs;
        self.full += other.full;
        self.rotten_bits += other.rotten_bits;
    }
}

impl LyingDisk {
    /// An empty disk, whose faults follow from the seed.
    #[must_use]
    pub fn new(seed: u64) -> Self {
        Self(Arc::new(Mutex::new(Platter {
            random: fastrand::Rng::with_seed(seed),
            files: Vec::new(),
            names: BTreeMap::new(),
            synced_names: BTreeMap::new(),
            life: 0,
            left: Some(u64::MAX),
            faults: Faults::default(),
            counts: Counts::default(),
        })))
    }

    /// Has the power go after so many operations.
    pub fn cut_after(&self, operations: u64) {
        self.0.lock().left = Some(operations);
    }

    /// Says what goes wrong from now on.
    pub fn set_faults(&self, faults: Faults) {
        self.0.lock().faults = faults;
    }

    /// Whether each write would take for ever.
    pub(crate) fn hangs(&self) -> bool {
        self.0.lock().faults.hangs
    }

    /// Whether the power is off.
    #[must_use]
    pub fn is_off(&self) -> bool {
        self.0.lock().left.is_none()
    }

    /// What was done to the files so far.
    #[must_use]
    pub fn counts(&self) -> Counts {
        self.0.lock().counts
    }

    /// Ends the process that uses the disk. Whatever it wrote stays, synced or not.
    pub fn kill(&self) {
        self.0.lock().life += 1;
    }

    /// Brings the power back, with what the cut has left of the files.
    pub fn restart(&self) {
        let platter = &mut *self.0.lock();
        platter.cut();
        platter.life += 1;
        platter.left = Some(u64::MAX);
        platter.faults = Faults::default();
    }

    /// A byte of any file, before the file's last byte that is not zero: which bytes between are zero is
    /// not the same each time, because a segment has a random number. `None` if the file is empty.
    #[cfg(test)]
    pub(super) fn any_byte(&self) -> Option<(PathBuf, usize)> {
        let platter = &mut *self.0.lock();
        let (path, file) = platter.random.choice(platter.names.iter())?;
        let seen = &platter.files[*file].seen;
        let last = seen.iter().rposition(|byte| *byte != 0)?;
        Some((path.clone(), platter.random.usize(..=last)))
    }

    /// A copy of the disk of which one bit has changed, in a byte of a file.
    #[cfg(test)]
    pub(super) fn with_rot(&self, path: &Path, at: usize) -> Self {
        let platter = &mut *self.0.lock();
        platter.counts.rotten_bits += 1;
        let copy = Self::new(platter.random.u64(..));
        {
            let mut copy = copy.0.lock();
            copy.files.clone_from(&platter.files);
            copy.names.clone_from(&platter.names);
            copy.synced_names.clone_from(&platter.names);
            copy.files[platter.names[path]].seen[at] ^= 1 << platter.random.u8(..8);
        }
        copy
    }
}

impl Platter {
    /// Counts an operation of a process, which fails once the power is off.
    fn operate(&mut self, life: u64) -> io::Result<()> {
        self.left = self.left.and_then(|left| left.checked_sub(1));
        if self.left.is_none() || self.life != life {
            return Err(io::Error::other("the power is off"));
        }
        Ok(())
    }

    fn fails(&mut self, of_hundred: u32) -> bool {
        of_hundred > 0 && self.random.u32(..100) < of_hundred
    }

    /// What a cut leaves: of each page that was not synced, each sector as it was at some moment since.
    fn cut(&mut self) {
        self.counts.cuts += 1;
        // All lost and all kept are as likely as everything between.
        let keep = *self.random.choice([0, 10, 50, 90, 100].iter()).unwrap_or(&50);
        for content in &mut self.files {
            content.settle(&mut self.random, keep, &mut self.counts);
            content.seen.clone_from(&content.synced);
            content.shortest = None;
        }
        let all: BTreeSet<PathBuf> = self.names.keys().chain(self.synced_names.keys()).cloned().collect();
        for path in all {
            let names = if self.random.u32(..100) < keep { &self.names } else { &self.synced_names };
            match names.get(&path) {
                Some(file) => self.synced_names.insert(path, *file),
                None => self.synced_names.remove(&path),
            };
        }
        self.names.clone_from(&self.synced_names);
    }
}

impl Content {
    fn write(&mut self, offset: usize, data: &[u8]) {
        let end = offset + data.len();
        if end > self.seen.len() {
            self.seen.resize(end, 0);
        }
        self.seen[offset..end].copy_from_slice(data);
        for page in offset / PAGE..end.div_ceil(PAGE) {
            let bytes = self.page(page);
            self.unsynced.entry(page).or_default().push(bytes);
        }
    }

    fn page(&self, page: usize) -> Vec<u8> {
        let mut bytes = self.seen[page * PAGE..self.seen.len().min((page + 1) * PAGE)].to_vec();
        bytes.resize(PAGE, 0);
        bytes
    }

    fn set_len(&mut self, len: usize) {
        self.shortest = Some(self.shortest.unwrap_or(self.seen.len()).min(len));
        self.seen.resize(len, 0);
        self.unsynced.retain(|page, _| page * PAGE < len);
    }

    fn sync_length(&mut self) {
        self.synced.truncate(self.shortest.take().unwrap_or(usize::MAX));
        self.synced.resize(self.seen.len(), 0);
    }

    fn sync(&mut self) {
        self.sync_length();
        for (page, versions) in std::mem::take(&mut self.unsynced) {
            let Some(newest) = versions.last() else { continue };
            put(&mut self.synced, page * PAGE, newest);
        }
    }

    /// Decides what the disk has of what was not synced, and forgets the rest. A process still sees what
    /// it has written: after a sync that failed, a system takes its pages for clean.
    fn settle(&mut self, random: &mut fastrand::Rng, keep: u32, counts: &mut Counts) {
        if random.u32(..100) < keep {
            self.sync_length();
        }
        for (page, versions) in std::mem::take(&mut self.unsynced) {
            for at in (0..PAGE).step_by(SECTOR) {
                if random.u32(..100) >= keep {
                    counts.sectors_lost += 1;
                    continue;
                }
                counts.sectors_kept += 1;
                // The newest as a rule, and at times what an earlier write had left.
                let newest = versions.len() - 1;
                let version = if random.u32(..4) > 0 { newest } else { random.usize(..versions.len()) };
                put(&mut self.synced, page * PAGE + at, &versions[version][at..at + SECTOR]);
            }
        }
    }
}

/// Puts bytes in their place, as far as the file reaches.
fn put(file: &mut [u8], at: usize, bytes: &[u8]) {
    let end = file.len().min(at + bytes.len());
    if let Some(place) = file.get_mut(at..end) {
        place.copy_from_slice(&bytes[..end - at]);
    }
}

/// An open file of the disk.
#[derive(Debug)]
struct OpenFile {
    disk: LyingDisk,
    file: usize,
    life: u64,
}

fn full() -> io::Error {
    io::Error::from(io::ErrorKind::StorageFull)
}

impl StorageBackend for OpenFile {
    fn len(&self) -> io::Result<u64> {
        Ok(self.disk.0.lock().files[self.file].seen.len() as u64)
    }

    fn read(&self, offset: u64, out: &mut [u8]) -> io::Result<()> {
        let platter = self.disk.0.lock();
        let bytes = platter.files[self.file].seen.get(offset as usize..offset as usize + out.len());
        out.copy_from_slice(bytes.ok_or(io::ErrorKind::UnexpectedEof)?);
        Ok(())
    }

    fn set_len(&self, len: u64) -> io::Result<()> {
        let platter = &mut *self.disk.0.lock();
        platter.operate(self.life)?;
        let content = &mut platter.files[self.file];
        if platter.faults.full && len > content.seen.len() as u64 {
            platter.counts.full += 1;
            return Err(full());
        }
        content.set_len(len as usize);
        Ok(())
    }

    fn sync_data(&self) -> io::Result<()> {
        let platter = &mut *self.disk.0.lock();
        platter.operate(self.life)?;
        if platter.fails(platter.faults.failed_syncs) {
            platter.counts.failed_syncs += 1;
            platter.files[self.file].settle(&mut platter.random, 50, &mut platter.counts);
            return Err(io::Error::other("the disk could not be synced"));
        }
        platter.files[self.file].sync();
        Ok(())
    }

    fn write(&self, offset: u64, data: &[u8]) -> io::Result<()> {
        let platter = &mut *self.disk.0.lock();
        let offset = offset as usize;
        let was_on = platter.left.is_some() && platter.life == self.life;
        let on = platter.operate(self.life);
        if !was_on {
            return on;
        }
        let grows = offset + data.len() > platter.files[self.file].seen.len();
        if on.is_ok() && platter.faults.full && grows {
            platter.counts.full += 1;
            return Err(full());
        }
        if on.is_ok() && platter.fails(platter.faults.short_writes) {
            platter.counts.short_writes += 1;
            let written = platter.random.usize(..data.len().max(1));
            platter.files[self.file].write(offset, &data[..written]);
            return Err(full());
        }
        // The write during which the power goes may be on the disk in part.
        platter.files[self.file].write(offset, data);
        on
    }
}

impl Disk for LyingDisk {
    fn is_in_memory(&self) -> bool {
        true
    }

    fn create_directory(&self, _: &Path) -> io::Result<()> {
        Ok(())
    }

    fn sync_directory(&self, _: &Path) -> io::Result<()> {
        let platter = &mut *self.0.lock();
        platter.operate(platter.life)?;
        platter.synced_names.clone_from(&platter.names);
        Ok(())
    }

    fn open(&self, path: &Path) -> io::Result<Box<dyn StorageBackend>> {
        self.open_file(path).map(|file| Box::new(file) as _)
    }

    fn open_tables(&self, builder: &Builder, path: &Path) -> Result<Database, DatabaseError> {
        builder.create_with_backend(self.open_file(path)?)
    }

    fn empty(&self, path: &Path, _: u64, is_worthless: fn(&[u8]) -> bool) -> io::Result<bool> {
        let platter = &mut *self.0.lock();
        platter.operate(platter.life)?;
        let file = *platter.names.get(path).ok_or(io::ErrorKind::NotFound)?;
        let worthless = is_worthless(&platter.files[file].seen);
        if worthless {
            platter.files[file].set_len(0);
        }
        Ok(worthless)
    }

    fn remove(&self, path: &Path) -> io::Result<()> {
        let platter = &mut *self.0.lock();
        platter.operate(platter.life)?;
        platter.names.remove(path).map(drop).ok_or(io::ErrorKind::NotFound.into())
    }
}

impl LyingDisk {
    fn open_file(&self, path: &Path) -> io::Result<OpenFile> {
        let platter = &mut *self.0.lock();
        platter.operate(platter.life)?;
        let file = match platter.names.get(path) {
            Some(file) => *file,
            None => {
                platter.files.push(Content::default());
                platter.names.insert(path.to_owned(), platter.files.len() - 1);
                platter.files.len() - 1
            }
        };
        Ok(OpenFile { disk: self.clone(), file, life: platter.life })
    }
}
