//! The kernel's requests, turned into calls of [`Files`].

use super::files::{Directory, File, Files, Node};
use fuser::{
    BsdFileFlags, Errno, FileAttr, FileHandle, FileType, Filesystem, FopenFlags, Generation, INodeNo, LockOwner,
    OpenFlags, RenameFlags, ReplyAttr, ReplyCreate, ReplyData, ReplyDirectory, ReplyEmpty, ReplyEntry, ReplyStatfs,
    ReplyWrite, Request, TimeOrNow, WriteFlags,
};
use std::ffi::OsStr;
use std::sync::Arc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

pub struct Driver(pub Arc<parking_lot::Mutex<Files>>);

/// Nothing is kept by the kernel: names come back after a power cut.
const NO_CACHE: Duration = Duration::ZERO;

fn attributes(id: u64, node: &Node) -> FileAttr {
    let (size, kind, perm) = match node {
        Node::File(file) => (file.now.len() as u64, FileType::RegularFile, 0o644),
        Node::Directory(_) => (0, FileType::Directory, 0o755),
    };
    FileAttr {
        ino: INodeNo(id),
        size,
        blocks: size.div_ceil(512),
        atime: UNIX_EPOCH,
        mtime: UNIX_EPOCH,
        ctime: UNIX_EPOCH,
        crtime: UNIX_EPOCH,
        kind,
        perm,
        nlink: 1,
        uid: 0,
        gid: 0,
        rdev: 0,
        blksize: 4096,
        flags: 0,
    }
}

fn entry(files: &Files, found: Result<u64, Errno>, reply: ReplyEntry) {
    match found.and_then(|id| files.node(id).map(|node| attributes(id, node))) {
        Ok(attr) => reply.entry(&NO_CACHE, &attr, Generation(0)),
        Err(error) => reply.error(error),
    }
}

fn empty(done: Result<(), Errno>, reply: ReplyEmpty) {
    match done {
        Ok(()) => reply.ok(),
        Err(error) => reply.error(error),
    }
}

impl Filesystem for Driver {
    fn lookup(&self, _: &Request, parent: INodeNo, name: &OsStr, reply: ReplyEntry) {
        let files = self.0.lock();
        entry(&files, files.lookup(parent.0, name), reply);
    }

    fn getattr(&self, _: &Request, ino: INodeNo, _: Option<FileHandle>, reply: ReplyAttr) {
        match self.0.lock().node(ino.0) {
            Ok(node) => reply.attr(&NO_CACHE, &attributes(ino.0, node)),
            Err(error) => reply.error(error),
        }
    }

    fn setattr(
        &self,
        _: &Request,
        ino: INodeNo,
        _: Option<u32>,
        _: Option<u32>,
        _: Option<u32>,
        size: Option<u64>,
        _: Option<TimeOrNow>,
        _: Option<TimeOrNow>,
        _: Option<SystemTime>,
        _: Option<FileHandle>,
        _: Option<SystemTime>,
        _: Option<SystemTime>,
        _: Option<SystemTime>,
        _: Option<BsdFileFlags>,
        reply: ReplyAttr,
    ) {
        let mut files = self.0.lock();
        let done = size.map_or(Ok(()), |size| files.truncate(ino.0, size as usize));
        match done.and_then(|()| files.node(ino.0).map(|node| attributes(ino.0, node))) {
            Ok(attr) => reply.attr(&NO_CACHE, &attr),
            Err(error) => reply.error(error),
        }
    }

    fn mkdir(&self, _: &Request, parent: INodeNo, name: &OsStr, _: u32, _: u32, reply: ReplyEntry) {
        let mut files = self.0.lock();
        let made = files.create(parent.0, name, Node::Directory(Directory::default()));
        entry(&files, made, reply);
    }

    fn unlink(&self, _: &Request, parent: INodeNo, name: &OsStr, reply: ReplyEmpty) {
        empty(self.0.lock().remove(parent.0, name), reply);
    }

    fn rmdir(&self, _: &Request, parent: INodeNo, name: &OsStr, reply: ReplyEmpty) {
        empty(self.0.lock().remove(parent.0, name), reply);
    }

    fn rename(
        &self,
        _: &Request,
        parent: INodeNo,
        name: &OsStr,
        newparent: INodeNo,
        newname: &OsStr,
        _: RenameFlags,
        reply: ReplyEmpty,
    ) {
        empty(self.0.lock().rename((parent.0, name), (newparent.0, newname)), reply);
    }

    fn link(&self, _: &Request, ino: INodeNo, newparent: INodeNo, newname: &OsStr, reply: ReplyEntry) {
        let mut files = self.0.lock();
        let linked = files.link(ino.0, newparent.0, newname).map(|()| ino.0);
        entry(&files, linked, reply);
    }

    fn create(&self, _: &Request, parent: INodeNo, name: &OsStr, _: u32, _: u32, _: i32, reply: ReplyCreate) {
        let mut files = self.0.lock();
        let made = files.create(parent.0, name, Node::File(File::default()));
        match made.and_then(|id| files.node(id).map(|node| attributes(id, node))) {
            Ok(attr) => reply.created(&NO_CACHE, &attr, Generation(0), FileHandle(0), FopenFlags::empty()),
            Err(error) => reply.error(error),
        }
    }

    fn read(
        &self,
        _: &Request,
        ino: INodeNo,
        _: FileHandle,
        offset: u64,
        size: u32,
        _: OpenFlags,
        _: Option<LockOwner>,
        reply: ReplyData,
    ) {
        match self.0.lock().read(ino.0, offset as usize, size as usize) {
            Ok(data) => reply.data(data),
            Err(error) => reply.error(error),
        }
    }

    fn write(
        &self,
        _: &Request,
        ino: INodeNo,
        _: FileHandle,
        offset: u64,
        data: &[u8],
        _: WriteFlags,
        _: OpenFlags,
        _: Option<LockOwner>,
        reply: ReplyWrite,
    ) {
        match self.0.lock().write(ino.0, offset as usize, data) {
            Ok(()) => reply.written(data.len() as u32),
            Err(error) => reply.error(error),
        }
    }

    fn flush(&self, _: &Request, _: INodeNo, _: FileHandle, _: LockOwner, reply: ReplyEmpty) {
        reply.ok();
    }

    fn fsync(&self, _: &Request, ino: INodeNo, _: FileHandle, _: bool, reply: ReplyEmpty) {
        let takes = self.0.lock().sync_takes;
        std::thread::sleep(takes);
        empty(self.0.lock().sync(ino.0), reply);
    }

    fn fsyncdir(&self, _: &Request, ino: INodeNo, _: FileHandle, _: bool, reply: ReplyEmpty) {
        empty(self.0.lock().sync(ino.0), reply);
    }

    fn readdir(&self, _: &Request, ino: INodeNo, _: FileHandle, offset: u64, mut reply: ReplyDirectory) {
        let files = self.0.lock();
        let names = match files.directory(ino.0) {
            Ok(names) => names,
            Err(error) => return reply.error(error),
        };
        let own = [(OsStr::new("."), ino.0), (OsStr::new(".."), ino.0)];
        let all = own.into_iter().chain(names.iter().map(|(n, id)| (n.as_os_str(), *id)));
        for (i, (name, id)) in all.enumerate().skip(offset as usize) {
            let kind = match files.node(id) {
                Ok(Node::File(_)) => FileType::RegularFile,
                _ => FileType::Directory,
            };
            if reply.add(INodeNo(id), i as u64 + 1, kind, name) {
                break;
            }
        }
        reply.ok();
    }

    fn statfs(&self, _: &Request, _: INodeNo, reply: ReplyStatfs) {
        let files = self.0.lock();
        let (all, free) = (
            files.capacity / 4096,
            files.capacity.saturating_sub(files.used()) / 4096,
        );
        reply.statfs(all, free, free, 1 << 20, 1 << 19, 4096, 255, 4096);
    }

    fn fallocate(&self, _: &Request, _: INodeNo, _: FileHandle, _: u64, _: u64, _: i32, reply: ReplyEmpty) {
        reply.error(Errno::EOPNOTSUPP);
    }
}
