//! Files and directories, each as it is and as it was when last synced.

use fuser::Errno;
use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::ffi::{OsStr, OsString};

pub const ROOT: u64 = 1;

/// Names of a directory.
pub type Names = BTreeMap<OsString, u64>;

#[derive(Default)]
pub struct File {
    pub now: Vec<u8>,
    durable: Vec<u8>,
    /// The bytes that differ at most: from, to.
    dirty: Option<(usize, usize)>,
}

#[derive(Default)]
pub struct Directory {
    pub now: Names,
    durable: Names,
}

pub enum Node {
    File(File),
    Directory(Directory),
}

pub struct Files {
    nodes: HashMap<u64, Node>,
    next: u64,
    used: u64,
    pub capacity: u64,
    pub read_only: bool,
    /// What each sync takes besides.
    pub sync_takes: std::time::Duration,
}

impl File {
    fn touch(&mut self, from: usize, to: usize) {
        let (a, b) = self.dirty.unwrap_or((from, to));
        self.dirty = Some((a.min(from), b.max(to)));
    }

    fn sync(&mut self) {
        self.durable.resize(self.now.len(), 0);
        if let Some((from, to)) = self.dirty.take() {
            let to = to.min(self.now.len());
            if from < to {
                self.durable[from..to].copy_from_slice(&self.now[from..to]);
            }
        }
    }

    fn forget(&mut self) {
        self.now.clone_from(&self.durable);
        self.dirty = None;
    }
}

impl Files {
    pub fn new(capacity: u64) -> Self {
        let nodes = HashMap::from([(ROOT, Node::Directory(Directory::default()))]);
        Self {
            nodes,
            next: ROOT + 1,
            used: 0,
            capacity,
            read_only: false,
            sync_takes: std::time::Duration::ZERO,
        }
    }

    pub fn used(&self) -> u64 {
        self.used
    }

    pub fn node(&self, id: u64) -> Result<&Node, Errno> {
        self.nodes.get(&id).ok_or(Errno::ENOENT)
    }

    pub fn directory(&self, id: u64) -> Result<&Names, Errno> {
        match self.node(id)? {
            Node::Directory(d) => Ok(&d.now),
            Node::File(_) => Err(Errno::ENOTDIR),
        }
    }

    fn names(&mut self, id: u64) -> Result<&mut Names, Errno> {
        if self.read_only {
            return Err(Errno::EROFS);
        }
        match self.nodes.get_mut(&id).ok_or(Errno::ENOENT)? {
            Node::Directory(d) => Ok(&mut d.now),
            Node::File(_) => Err(Errno::ENOTDIR),
        }
    }

    fn file(&mut self, id: u64) -> Result<&mut File, Errno> {
        match self.nodes.get_mut(&id).ok_or(Errno::ENOENT)? {
            Node::File(f) => Ok(f),
            Node::Directory(_) => Err(Errno::EISDIR),
        }
    }

    pub fn lookup(&self, parent: u64, name: &OsStr) -> Result<u64, Errno> {
        self.directory(parent)?.get(name).copied().ok_or(Errno::ENOENT)
    }

    pub fn create(&mut self, parent: u64, name: &OsStr, node: Node) -> Result<u64, Errno> {
        let id = self.next;
        let names = self.names(parent)?;
        if names.contains_key(name) {
            return Err(Errno::EEXIST);
        }
        names.insert(name.to_owned(), id);
        self.next += 1;
        self.nodes.insert(id, node);
        Ok(id)
    }

    pub fn link(&mut self, id: u64, parent: u64, name: &OsStr) -> Result<(), Errno> {
        let names = self.names(parent)?;
        if names.contains_key(name) {
            return Err(Errno::EEXIST);
        }
        names.insert(name.to_owned(), id);
        Ok(())
    }

    /// Removes a name. Contents stay until the next power cut, for whoever has the file open.
    pub fn remove(&mut self, parent: u64, name: &OsStr) -> Result<(), Errno> {
        let id = self.lookup(parent, name)?;
        if matches!(self.node(id)?, Node::Directory(d) if !d.now.is_empty()) {
            return Err(Errno::ENOTEMPTY);
        }
        self.names(parent)?.remove(name);
        if !self
            .nodes
            .values()
            .any(|n| matches!(n, Node::Directory(d) if d.now.values().any(|i| *i == id)))
            && let Some(Node::File(file)) = self.nodes.get(&id)
        {
            self.used -= file.now.len() as u64;
        }
        Ok(())
    }

    pub fn rename(&mut self, from: (u64, &OsStr), to: (u64, &OsStr)) -> Result<(), Errno> {
        let id = self.lookup(from.0, from.1)?;
        if self.lookup(to.0, to.1).is_ok() {
            self.remove(to.0, to.1)?;
        }
        self.names(from.0)?.remove(from.1);
        self.names(to.0)?.insert(to.1.to_owned(), id);
        Ok(())
    }

    fn room(&mut self, more: u64) -> Result<(), Errno> {
        if self.read_only {
            return Err(Errno::EROFS);
        }
        if more > 0 && self.used + more > self.capacity {
            return Err(Errno::ENOSPC);
        }
        self.used += more;
        Ok(())
    }

    pub fn write(&mut self, id: u64, at: usize, data: &[u8]) -> Result<(), Errno> {
        let length = self.file(id)?.now.len();
        let end = at + data.len();
        self.room(end.saturating_sub(length) as u64)?;
        let file = self.file(id)?;
        if end > length {
            file.now.resize(end, 0);
        }
        file.now[at..end].copy_from_slice(data);
        file.touch(at.min(length), end);
        Ok(())
    }

    pub fn truncate(&mut self, id: u64, length: usize) -> Result<(), Errno> {
        let old = self.file(id)?.now.len();
        self.room(length.saturating_sub(old) as u64)?;
        self.used -= old.saturating_sub(length) as u64;
        let file = self.file(id)?;
        file.now.resize(length, 0);
        file.touch(old.min(length), old.max(length));
        Ok(())
    }

    pub fn read(&self, id: u64, at: usize, size: usize) -> Result<&[u8], Errno> {
        match self.node(id)? {
            Node::File(f) => {
                let at = at.min(f.now.len());
                Ok(&f.now[at..(at + size).min(f.now.len())])
            }
            Node::Directory(_) => Err(Errno::EISDIR),
        }
    }

    pub fn sync(&mut self, id: u64) -> Result<(), Errno> {
        if self.read_only {
            return Err(Errno::EROFS);
        }
        match self.nodes.get_mut(&id).ok_or(Errno::ENOENT)? {
            Node::File(file) => file.sync(),
            Node::Directory(directory) => directory.durable.clone_from(&directory.now),
        }
        Ok(())
    }

    pub fn forget_unsynced(&mut self) {
        for node in self.nodes.values_mut() {
            match node {
                Node::File(file) => file.forget(),
                Node::Directory(directory) => directory.now.clone_from(&directory.durable),
            }
        }
        let mut reached = BTreeSet::from([ROOT]);
        let mut queue = vec![ROOT];
        while let Some(id) = queue.pop() {
            if let Some(Node::Directory(directory)) = self.nodes.get(&id) {
                queue.extend(directory.now.values().filter(|child| reached.insert(**child)));
            }
        }
        self.nodes.retain(|id, _| reached.contains(id));
        let size = |n: &Node| if let Node::File(f) = n { f.now.len() as u64 } else { 0 };
        self.used = self.nodes.values().map(size).sum();
    }
}
