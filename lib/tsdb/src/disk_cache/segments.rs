//! Entries in a few large files that are written from the beginning to the end and deleted as a whole, the oldest first.
//!
//! ```text
//! <number, 16 hex digits>.gnc     a segment: entries, one after the other, up to its end or to the first that is none
//!
//! entry   magic "GNC1" | key, 16 bytes | length of the data, u32 | CRC-32C of the data, u32 | CRC-32C of these 28 bytes, u32
//!         | data                                                                                  (little endian)
//! ```
//!
//! Invariant: what is given out has its checksum and its key. Nothing is synced: what a crash tears is no entry any more.

use bytes::{Buf, BufMut, Bytes};
use parking_lot::Mutex;
use std::collections::{HashMap, VecDeque};
use std::fs::{File, TryLockError};
use std::io;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

const MAGIC: &[u8; 4] = b"GNC1";
const HEADER_LEN: u64 = 32;
const SUFFIX: &str = ".gnc";
/// Held by the one process that uses a folder.
const LOCK_FILE: &str = "lock";
/// The cap is cut into so many segments: one of them is what goes at a time.
const SEGMENTS: u64 = 16;
const SEGMENT_BYTES: std::ops::RangeInclusive<u64> = (1 << 20)..=(256 << 20);
/// An entry of these oldest segments that is used is written anew, so that it stays.
const OLDEST: usize = 3;

/// What an entry is found by.
pub(super) type Key = u128;

#[derive(Clone)]
struct Segment {
    number: u64,
    file: Arc<File>,
    /// Up to where there are entries.
    len: u64,
}

#[derive(Clone, Copy)]
struct Place {
    segment: u64,
    offset: u64,
    len: u32,
}

#[derive(Default)]
struct Inner {
    index: HashMap<Key, Place>,
    /// Ascending by number; the last is written to.
    segments: VecDeque<Segment>,
    next_number: u64,
    /// Of the first segment that this process has made.
    first_own: u64,
    bytes: u64,
}

/// What a look-up found.
pub(super) struct Found {
    pub(super) data: Bytes,
    /// It will go soon, and had better be written anew.
    pub(super) is_old: bool,
}

/// See the module. All calls wait for the disk.
pub(super) struct Segments {
    folder: PathBuf,
    segment_bytes: u64,
    max_segments: usize,
    inner: Mutex<Inner>,
    /// One writes at a time.
    writer: Mutex<()>,
    _lock: File,
}

impl Segments {
    /// Opens a folder, made if need be, that has at most about `max_bytes`. What is in it is found once
    /// [`Self::read_back`] has run.
    ///
    /// # Errors
    /// When the folder cannot be used, or another process uses it.
    pub(super) fn open(folder: &Path, max_bytes: u64) -> io::Result<Self> {
        std::fs::create_dir_all(folder)?;
        let lock = File::options()
            .create(true)
            .truncate(false)
            .write(true)
            .open(folder.join(LOCK_FILE))?;
        lock.try_lock().map_err(|error| match error {
            TryLockError::WouldBlock => io::Error::other("another process uses it"),
            TryLockError::Error(error) => error,
        })?;
        let segment_bytes = (max_bytes / SEGMENTS).clamp(*SEGMENT_BYTES.start(), *SEGMENT_BYTES.end());
        let segments = Self {
            folder: folder.to_owned(),
            segment_bytes,
            max_segments: usize::try_from(max_bytes / segment_bytes).unwrap_or(usize::MAX).max(1),
            inner: Mutex::default(),
            writer: Mutex::default(),
            _lock: lock,
        };
        segments.find()?;
        Ok(segments)
    }

    fn path(&self, number: u64) -> PathBuf {
        self.folder.join(format!("{number:016x}{SUFFIX}"))
    }

    /// Notes which segments there are, and deletes those beyond the cap.
    fn find(&self) -> io::Result<()> {
        let mut numbers = Vec::new();
        for entry in std::fs::read_dir(&self.folder)? {
            let name = entry?.file_name();
            let number = name.to_str().and_then(|name| name.strip_suffix(SUFFIX));
            numbers.extend(number.and_then(|number| u64::from_str_radix(number, 16).ok()));
        }
        numbers.sort_unstable();
        let mut inner = self.inner.lock();
        inner.next_number = numbers.last().map_or(0, |last| last.saturating_add(1));
        inner.first_own = inner.next_number;
        for number in numbers {
            let path = self.path(number);
            let file = File::options().read(true).write(true).open(&path);
            let (file, len) = match file.and_then(|file| file.metadata().map(|meta| (file, meta.len()))) {
                Ok((file, len)) if len <= self.segment_bytes => (file, len),
                // Of a larger cap, or not to be read: it is of no use.
                _ => {
                    std::fs::remove_file(&path)?;
                    continue;
                }
            };
            inner.bytes += len;
            inner.segments.push_back(Segment {
                number,
                file: Arc::new(file),
                len,
            });
        }
        drop(inner);
        self.make_room()
    }

    /// Finds the entries that were written before. Entries can be looked up and written meanwhile.
    pub(super) fn read_back(&self) {
        let there: Vec<_> = self.inner.lock().segments.iter().cloned().collect();
        for segment in there {
            let mut offset = 0;
            while let Some((key, len)) = header_at(&segment.file, offset, segment.len) {
                let place = Place {
                    segment: segment.number,
                    offset,
                    len,
                };
                let mut inner = self.inner.lock();
                if !inner.segments.iter().any(|other| other.number == segment.number) {
                    break;
                }
                // What was written since is newer; of two old ones the later is.
                let is_older = |known: &Place| known.segment <= place.segment;
                if inner.index.get(&key).is_none_or(is_older) {
                    inner.index.insert(key, place);
                }
                offset += HEADER_LEN + u64::from(len);
            }
        }
    }

    /// Bytes of all segments.
    pub(super) fn bytes(&self) -> u64 {
        self.inner.lock().bytes
    }

    /// An entry; none where there is none, or it is damaged, in which case it is forgotten.
    ///
    /// # Errors
    /// When the disk does not give it.
    pub(super) fn get(&self, key: Key) -> io::Result<Option<Found>> {
        let (place, file, is_old) = {
            let inner = self.inner.lock();
            let Some(place) = inner.index.get(&key).copied() else {
                return Ok(None);
            };
            let Some(at) = inner.segments.iter().position(|s| s.number == place.segment) else {
                return Ok(None);
            };
            let is_old = at < OLDEST && inner.segments.len() + OLDEST > self.max_segments;
            (place, Arc::clone(&inner.segments[at].file), is_old)
        };
        let mut bytes = vec![0; (HEADER_LEN + u64::from(place.len)) as usize];
        let read = file.read_exact_at(&mut bytes, place.offset);
        let data = read.map(|()| checked(Bytes::from(bytes), key));
        if !matches!(data, Ok(Some(_))) {
            self.inner.lock().index.remove(&key);
        }
        match data {
            // The end came before: it was torn.
            Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => Ok(None),
            data => Ok(data?.map(|data| Found { data, is_old })),
        }
    }

    pub(super) fn forget(&self, key: Key) {
        self.inner.lock().index.remove(&key);
    }

    /// Writes an entry; one that is longer than a segment is not kept.
    ///
    /// # Errors
    /// When the disk does not take it. What was there stays.
    pub(super) fn put(&self, key: Key, data: &[u8]) -> io::Result<()> {
        let entry_len = HEADER_LEN + data.len() as u64;
        if entry_len > self.segment_bytes {
            return Ok(());
        }
        let _turn = self.writer.lock();
        let segment = self.segment_for(entry_len)?;
        let mut entry = Vec::with_capacity(entry_len as usize);
        entry.put_slice(MAGIC);
        entry.put_u128_le(key);
        entry.put_u32_le(data.len() as u32);
        entry.put_u32_le(crc32c::crc32c(data));
        entry.put_u32_le(crc32c::crc32c(&entry));
        entry.put_slice(data);
        segment.file.write_all_at(&entry, segment.len)?;
        let mut inner = self.inner.lock();
        let place = Place {
            segment: segment.number,
            offset: segment.len,
            len: data.len() as u32,
        };
        inner.index.insert(key, place);
        inner.bytes += entry_len;
        if let Some(last) = inner.segments.back_mut() {
            last.len += entry_len;
        }
        Ok(())
    }

    /// The segment to write to, which has room. Called by the one who writes.
    fn segment_for(&self, entry_len: u64) -> io::Result<Segment> {
        let number = {
            let mut inner = self.inner.lock();
            // One of an earlier life is not gone on with: where its entries end is not known before it is read.
            if let Some(last) = inner.segments.back()
                && last.number >= inner.first_own
                && last.len + entry_len <= self.segment_bytes
            {
                return Ok(last.clone());
            }
            inner.next_number += 1;
            inner.next_number - 1
        };
        let file = File::options()
            .create(true)
            .truncate(true)
            .read(true)
            .write(true)
            .open(self.path(number))?;
        let segment = Segment {
            number,
            file: Arc::new(file),
            len: 0,
        };
        self.inner.lock().segments.push_back(segment.clone());
        self.make_room()?;
        Ok(segment)
    }

    /// Deletes the oldest segments beyond the cap.
    fn make_room(&self) -> io::Result<()> {
        loop {
            let gone = {
                let mut inner = self.inner.lock();
                if inner.segments.len() <= self.max_segments {
                    return Ok(());
                }
                let Some(gone) = inner.segments.pop_front() else {
                    return Ok(());
                };
                inner.bytes -= gone.len;
                inner.index.retain(|_, place| place.segment != gone.number);
                gone
            };
            match std::fs::remove_file(self.path(gone.number)) {
                Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
                _ => {}
            }
        }
    }
}

/// The key and the length of the entry at `offset`; none where there is no whole one before `end`.
fn header_at(file: &File, offset: u64, end: u64) -> Option<(Key, u32)> {
    let mut header = [0; HEADER_LEN as usize];
    if offset + HEADER_LEN > end || file.read_exact_at(&mut header, offset).is_err() {
        return None;
    }
    let (key, len, _) = header_of(&header)?;
    (offset + HEADER_LEN + u64::from(len) <= end).then_some((key, len))
}

/// The key, the length and the checksum of the data that a header tells.
fn header_of(header: &[u8]) -> Option<(Key, u32, u32)> {
    let (fields, mut crc) = header.get(..HEADER_LEN as usize)?.split_at(HEADER_LEN as usize - 4);
    if crc32c::crc32c(fields) != crc.get_u32_le() {
        return None;
    }
    let mut fields = fields.strip_prefix(MAGIC)?;
    Some((fields.get_u128_le(), fields.get_u32_le(), fields.get_u32_le()))
}

/// The data of an entry that is the one looked for.
fn checked(entry: Bytes, key: Key) -> Option<Bytes> {
    let (found, len, crc) = header_of(&entry)?;
    let data = entry.slice(HEADER_LEN as usize..);
    (found == key && data.len() == len as usize && crc32c::crc32c(&data) == crc).then_some(data)
}
