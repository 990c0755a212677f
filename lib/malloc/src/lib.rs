//! How the system's allocator, which C libraries use, is set and tidied. Why: `docs/decisions/0005-few-heaps.md` and
//! `0012-jemalloc.md`.

/// Heaps that threads share; glibc's own bound is 8 for each core.
const HEAPS: i32 = 2;
/// Pieces that are larger are mapped apart, and go back to the system when they are freed.
const MAPPED_APART_BYTES: i32 = 256 << 10;
/// Free memory at a heap's end that is kept: [`give_back`] leaves it, but for the main heap's.
const KEPT_BYTES: i32 = 2 << 20;
/// Pieces up to this size wait in lists of their own, which are emptied whenever a large piece is freed: with every request,
/// that is. Each thread keeps a few small pieces anyway.
const LISTED_APART_BYTES: i32 = 0;

/// Has glibc keep few heaps and give back what is free at their ends. What the environment says (`MALLOC_ARENA_MAX` and
/// its like, `GLIBC_TUNABLES`) is left as it is; other systems' allocators are too. To be called before threads are started.
pub fn keep_little() {
    if std::env::var_os("GLIBC_TUNABLES").is_some_and(|said| said.to_string_lossy().contains("glibc.malloc")) {
        return;
    }
    for (variable, setting) in [
        ("MALLOC_ARENA_MAX", Setting::Heaps(HEAPS)),
        ("MALLOC_MMAP_THRESHOLD_", Setting::MappedApart(MAPPED_APART_BYTES)),
        ("MALLOC_TRIM_THRESHOLD_", Setting::Kept(KEPT_BYTES)),
        // No variable sets it alone.
        ("GLIBC_TUNABLES", Setting::ListedApart(LISTED_APART_BYTES)),
    ] {
        if std::env::var_os(variable).is_none() {
            set(setting);
        }
    }
}

/// Gives back to the system what is free between what stays; takes some milliseconds for each 100 MiB. Other systems'
/// allocators are left alone.
pub fn give_back() {
    trim();
}

#[derive(Clone, Copy)]
enum Setting {
    Heaps(i32),
    MappedApart(i32),
    Kept(i32),
    ListedApart(i32),
}

#[cfg(all(target_os = "linux", target_env = "gnu"))]
fn set(setting: Setting) {
    let (parameter, value) = match setting {
        Setting::Heaps(value) => (libc::M_ARENA_MAX, value),
        Setting::MappedApart(value) => (libc::M_MMAP_THRESHOLD, value),
        Setting::Kept(value) => (libc::M_TRIM_THRESHOLD, value),
        Setting::ListedApart(value) => (libc::M_MXFAST, value),
    };
    // What is refused stays as it was, which is how it would be without.
    #[expect(unsafe_code, reason = "docs/decisions/0005-few-heaps.md")]
    // SAFETY: takes two numbers, touches the allocator's own state alone, and locks it (mallopt(3): MT-Unsafe only where
    // it is the first call of the allocator, and Rust has allocated before `main`).
    let _ = unsafe { libc::mallopt(parameter, value) };
}

#[cfg(not(all(target_os = "linux", target_env = "gnu")))]
fn set(setting: Setting) {
    let _ = setting;
}

#[cfg(all(target_os = "linux", target_env = "gnu"))]
fn trim() {
    #[expect(unsafe_code, reason = "docs/decisions/0005-few-heaps.md")]
    // SAFETY: takes a number, touches the allocator's own state alone, and locks it (malloc_trim(3): MT-Safe).
    let _ = unsafe { libc::malloc_trim(0) };
}

#[cfg(not(all(target_os = "linux", target_env = "gnu")))]
fn trim() {}
