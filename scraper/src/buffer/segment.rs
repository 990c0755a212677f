//! Segments: files of held scrapes, each written once and removed when all of it has been sent or given up.
//!
//! ```text
//! file    = "GNSBUF01" record*
//! record  = bytes:u32le sum:u64le body          bytes = of the body; sum = XXH3-64 of the body
//! body    = seq:u64le target:u64le term:u64le tick_ms:i64le samples:u64le flags:u8 name:u32le labels{name} tick
//! flags   = 1 nobody else scraped the target then;  tick = as in tick.rs
//! ```
//!
//! Nothing that is in a segment was acknowledged: files are not synced. A record that is cut short or damaged ends its
//! file; those before it are good. A file of a newer version is left alone.

use super::queues::{Held, Name, Place, Spot, Work, Written};
use gnomon_model::TargetId;
use std::fs::File;
use std::io::{self, Read, Seek, SeekFrom, Write};
use std::path::{Path, PathBuf};
use xxhash_rust::xxh3::xxh3_64;

const MAGIC: &[u8; 8] = b"GNSBUF01";
/// What files of every version begin with; two digits follow.
const ANY_MAGIC: &[u8] = b"GNSBUF";
/// Of a file, what is no record.
pub(super) const EMPTY_BYTES: u64 = MAGIC.len() as u64;
const FRAME_BYTES: usize = 12;
const HEAD_BYTES: usize = 5 * 8 + 1 + 4;
const SOLE: u8 = 1;
const SUFFIX: &str = ".scrapes";
/// Files that are larger were not written here.
const MAX_FILE_BYTES: u64 = 2 << 30;
/// Nor were those with a larger number: there is always one that is larger still.
const MAX_NUMBER: u64 = 1 << 62;

/// The folder of segments.
#[derive(Clone, Debug)]
pub(super) struct Folder(PathBuf);

/// What was found in the folder.
#[derive(Debug, Default)]
pub(super) struct Found {
    /// Each with the bytes of its file.
    pub(super) segments: Vec<(u64, u64)>,
    /// The largest number that a file has, whether it can be read or not.
    pub(super) newest: u64,
    pub(super) held: Vec<(TargetId, Name, Held)>,
    /// Files with something that does not read back, and why.
    pub(super) damaged: Vec<(PathBuf, String)>,
    /// Files of a version that is not known here.
    pub(super) newer: Vec<PathBuf>,
}

/// Whether what could not be read will not be, however often it is tried: else the file may be whole.
pub(super) fn is_damage(error: &io::Error) -> bool {
    use io::ErrorKind::{InvalidData, NotFound, UnexpectedEof};
    matches!(error.kind(), InvalidData | NotFound | UnexpectedEof)
}

fn put_record(out: &mut Vec<u8>, work: &Work, tick: &[u8]) {
    let start = out.len();
    out.extend_from_slice(&[0; FRAME_BYTES]);
    let held = &work.held;
    for number in [held.seq, work.target.0, held.term] {
        out.extend_from_slice(&number.to_le_bytes());
    }
    out.extend_from_slice(&held.tick_ms.to_le_bytes());
    out.extend_from_slice(&held.samples.to_le_bytes());
    out.push(if held.sole { SOLE } else { 0 });
    out.extend_from_slice(&(work.name.len() as u32).to_le_bytes());
    out.extend_from_slice(&work.name);
    out.extend_from_slice(tick);
    let body = &out[start + FRAME_BYTES..];
    let (bytes, sum) = (body.len() as u32, xxh3_64(body));
    out[start..start + 4].copy_from_slice(&bytes.to_le_bytes());
    out[start + 4..start + FRAME_BYTES].copy_from_slice(&sum.to_le_bytes());
}

fn word(bytes: &[u8], at: usize) -> Option<u64> {
    let word = bytes.get(at..at + 8)?.try_into().ok()?;
    Some(u64::from_le_bytes(word))
}

fn half(bytes: &[u8], at: usize) -> Option<u32> {
    let half = bytes.get(at..at + 4)?.try_into().ok()?;
    Some(u32::from_le_bytes(half))
}

/// The body of the record that `bytes` begin with.
fn body_of(bytes: &[u8]) -> Result<&[u8], &'static str> {
    let (Some(len), Some(sum)) = (half(bytes, 0), word(bytes, 4)) else {
        return Err("it ends within the head of a record");
    };
    let body = bytes.get(FRAME_BYTES..).and_then(|rest| rest.get(..len as usize));
    let body = body.ok_or("it ends within a record")?;
    if xxh3_64(body) != sum {
        return Err("a checksum is wrong");
    }
    Ok(body)
}

/// What a body says, and where in it the tick begins.
fn head_of(body: &[u8]) -> Option<(Held, TargetId, Name, usize)> {
    let name = half(body, HEAD_BYTES - 4)? as usize;
    let labels = body.get(HEAD_BYTES..HEAD_BYTES.checked_add(name)?)?;
    let held = Held {
        seq: word(body, 0)?,
        term: word(body, 16)?,
        tick_ms: word(body, 24)? as i64,
        samples: word(body, 32)?,
        sole: body.get(40)? & SOLE != 0,
        place: Place::Memory(bytes::Bytes::new()),
    };
    Some((held, TargetId(word(body, 8)?), labels.into(), HEAD_BYTES + name))
}

impl Folder {
    /// The folder, made where it is not there.
    ///
    /// # Errors
    /// When it cannot be made.
    pub(super) fn open(path: &Path) -> io::Result<Self> {
        std::fs::create_dir_all(path)?;
        Ok(Self(path.to_owned()))
    }

    fn file(&self, segment: u64) -> PathBuf {
        self.0.join(format!("{segment:020}{SUFFIX}"))
    }

    /// Writes a segment; the bytes of its file, and where its records are.
    ///
    /// # Errors
    /// When there is one of that number, which stays as it is; or it cannot be written whole: then nothing of it is there.
    pub(super) fn write(&self, segment: u64, works: &[(Work, bytes::Bytes)]) -> io::Result<(u64, Vec<Written>)> {
        let mut out = MAGIC.to_vec();
        let mut spots = Vec::with_capacity(works.len());
        for (work, tick) in works {
            let offset = out.len() as u64;
            put_record(&mut out, work, tick);
            let bytes = (out.len() as u64 - offset) as u32;
            let spot = Spot { segment, offset, bytes };
            spots.push(Written {
                target: work.target,
                seq: work.held.seq,
                sole: work.held.sole,
                spot,
            });
        }
        let path = self.file(segment);
        let mut file = File::create_new(&path)?;
        if let Err(error) = file.write_all(&out) {
            let _ = std::fs::remove_file(&path);
            return Err(error);
        }
        Ok((out.len() as u64, spots))
    }

    /// The bytes of a scrape.
    ///
    /// # Errors
    /// When the file cannot be read, or the record is not what was written.
    pub(super) fn read(&self, spot: &Spot) -> io::Result<bytes::Bytes> {
        let path = self.file(spot.segment);
        let mut file = File::open(&path)?;
        file.seek(SeekFrom::Start(spot.offset))?;
        let mut record = vec![0; spot.bytes as usize];
        file.read_exact(&mut record)?;
        let damaged = |why: &str| {
            let (path, offset) = (path.display(), spot.offset);
            io::Error::new(io::ErrorKind::InvalidData, format!("{path} at {offset}: {why}"))
        };
        let body = body_of(&record).map_err(damaged)?;
        let (_, _, _, at) = head_of(body).ok_or_else(|| damaged("a record is too short"))?;
        let (from, to) = (FRAME_BYTES + at, FRAME_BYTES + body.len());
        Ok(bytes::Bytes::from(record).slice(from..to))
    }

    /// Removes a segment; one that is not there is removed.
    ///
    /// # Errors
    /// When it cannot be removed.
    pub(super) fn remove(&self, segment: u64) -> io::Result<()> {
        match std::fs::remove_file(self.file(segment)) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
            _ => Ok(()),
        }
    }

    /// Whether an earlier process left something.
    pub(super) fn has_segments(&self) -> bool {
        self.list().is_ok_and(|segments| !segments.is_empty())
    }

    fn list(&self) -> io::Result<Vec<u64>> {
        let mut segments = Vec::new();
        for entry in std::fs::read_dir(&self.0)? {
            let name = entry?.file_name();
            let number = name.to_str().and_then(|name| name.strip_suffix(SUFFIX));
            let number = number.and_then(|number| number.parse::<u64>().ok());
            segments.extend(number.filter(|number| *number <= MAX_NUMBER));
        }
        segments.sort_unstable();
        Ok(segments)
    }

    /// Reads what an earlier process left: one file in memory at a time.
    ///
    /// # Errors
    /// When the folder cannot be listed.
    pub(super) fn load(&self) -> io::Result<Found> {
        let mut found = Found::default();
        for segment in self.list()? {
            found.newest = segment.max(found.newest);
            let path = self.file(segment);
            let bytes = std::fs::metadata(&path).and_then(|about| match about.len() <= MAX_FILE_BYTES {
                true => std::fs::read(&path),
                false => Err(io::Error::other("it is larger than any segment")),
            });
            match bytes {
                Ok(bytes) if is_newer(&bytes) => found.newer.push(path),
                Ok(bytes) => {
                    found.segments.push((segment, bytes.len() as u64));
                    if let Err(why) = scan(segment, &bytes, &mut found.held) {
                        found.damaged.push((path, why.to_owned()));
                    }
                }
                Err(error) => found.damaged.push((path, error.to_string())),
            }
        }
        Ok(found)
    }
}

/// Whether a file is of a version that is not known here. It is not taken for one of ours: then it would be removed.
fn is_newer(bytes: &[u8]) -> bool {
    let version = bytes.strip_prefix(ANY_MAGIC).and_then(|rest| rest.get(..2));
    let known = &MAGIC[ANY_MAGIC.len()..];
    version.is_some_and(|version| version.iter().all(u8::is_ascii_digit) && version > known)
}

/// Notes the records of a file, up to one that is damaged.
fn scan(segment: u64, bytes: &[u8], held: &mut Vec<(TargetId, Name, Held)>) -> Result<(), &'static str> {
    if bytes.get(..MAGIC.len()) != Some(MAGIC) {
        return Err("it does not begin as a segment does");
    }
    let mut at = MAGIC.len();
    while at < bytes.len() {
        let body = body_of(&bytes[at..])?;
        let (mut one, target, name, _) = head_of(body).ok_or("a record is too short")?;
        let len = FRAME_BYTES + body.len();
        one.place = Place::Disk(Spot {
            segment,
            offset: at as u64,
            bytes: len as u32,
        });
        held.push((target, name, one));
        at += len;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::super::lines::Pass;
    use super::*;
    use bytes::Bytes;

    fn work(seq: u64, target: u64, text: &str) -> (Work, Bytes) {
        let held = Held {
            seq,
            term: 4,
            tick_ms: -5,
            samples: 3,
            sole: seq % 2 == 1,
            place: Place::Memory(Bytes::new()),
        };
        let work = Work {
            target: TargetId(target),
            name: Arc::from(text.as_bytes()),
            held,
            pass: Pass::default(),
        };
        (work, Bytes::from(format!("tick {seq}")))
    }

    use std::sync::Arc;

    #[test]
    fn what_is_written_is_found_and_read_by_another_process() {
        let dir = tempfile::tempdir().unwrap();
        let folder = Folder::open(&dir.path().join("scrape-buffer")).unwrap();
        assert!(!folder.has_segments());
        let (bytes, spots) = folder.write(7, &[work(1, 10, "a"), work(2, 11, "bb")]).unwrap();
        folder.write(8, &[work(3, 10, "a")]).unwrap();
        let error = folder.write(8, &[]).unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::AlreadyExists, "a segment is written once");
        assert_eq!(&*folder.read(&spots[1].spot).unwrap(), b"tick 2");
        let found = Folder::open(&folder.0).unwrap().load().unwrap();
        assert_eq!(found.segments.len(), 2);
        assert_eq!((found.segments[0], found.newest), ((7, bytes), 8));
        assert_eq!(
            found.held.len(),
            3,
            "what was there stays when it cannot be written anew"
        );
        assert!(found.damaged.is_empty());
        let (target, name, held) = &found.held[1];
        assert_eq!((*target, &**name), (TargetId(11), &b"bb"[..]));
        assert_eq!(
            (held.seq, held.term, held.tick_ms, held.samples, held.sole),
            (2, 4, -5, 3, false)
        );
        assert!(found.held[0].2.sole);
        assert_eq!(held.place, Place::Disk(spots[1].spot));
        assert_eq!((spots[0].sole, spots[1].sole), (true, false));
        folder.remove(7).unwrap();
        folder.remove(7).unwrap();
        let error = folder.read(&spots[1].spot).unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::NotFound);
        assert!(is_damage(&error));
    }

    #[test]
    fn files_that_cannot_be_read_or_are_of_a_newer_build_stay_and_keep_their_numbers() {
        let dir = tempfile::tempdir().unwrap();
        let folder = Folder::open(dir.path()).unwrap();
        folder.write(3, &[work(1, 10, "a")]).unwrap();
        std::fs::write(folder.file(5), b"GNSBUF02 and more").unwrap();
        std::fs::create_dir(folder.file(9)).unwrap();
        std::fs::write(folder.file(u64::MAX), b"").unwrap();
        let found = folder.load().unwrap();
        assert_eq!((found.segments.len(), found.held.len(), found.newest), (1, 1, 9));
        assert_eq!((found.damaged.len(), found.newer.len()), (1, 1));
        assert!(folder.write(9, &[]).is_err());
        assert!(folder.file(9).is_dir());
    }

    #[test]
    fn a_damaged_record_ends_its_file_and_costs_the_others_nothing() {
        let dir = tempfile::tempdir().unwrap();
        let folder = Folder::open(dir.path()).unwrap();
        let (_, spots) = folder
            .write(1, &[work(1, 10, "a"), work(2, 11, "b"), work(3, 12, "c")])
            .unwrap();
        folder.write(2, &[work(4, 13, "d")]).unwrap();
        let path = folder.file(1);
        let good = std::fs::read(&path).unwrap();
        let second = spots[1].spot.offset as usize;
        for at in 0..good.len() {
            let mut bytes = good.clone();
            bytes[at] ^= 0x10;
            std::fs::write(&path, &bytes).unwrap();
            let found = folder.load().unwrap();
            assert_eq!(found.damaged.len(), 1, "byte {at}");
            assert_eq!(found.segments.len(), 2, "byte {at}");
            let before = spots
                .iter()
                .filter(|s| s.spot.offset as usize + s.spot.bytes as usize <= at)
                .count();
            assert_eq!(
                found.held.len(),
                before + 1,
                "byte {at}: those before it, and the other file's"
            );
        }
        std::fs::write(&path, &good[..second + 20]).unwrap();
        let found = folder.load().unwrap();
        assert_eq!(found.held.len(), 2);
        let error = folder.read(&spots[1].spot).unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::UnexpectedEof);
    }
}
