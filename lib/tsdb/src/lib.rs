//! Pages, index, block writer and reader over an object store.
