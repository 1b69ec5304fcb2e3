//! Memory of the kernel in this process.

use std::ffi::c_void;
use std::os::fd::BorrowedFd;
use std::ptr;

use rustix::io::Errno;
use rustix::mm::{MapFlags, ProtFlags, mmap, munmap};

/// Memory of a map.
#[derive(Debug)]
pub(super) struct Mapping {
    pub(super) address: *mut c_void,
    length: usize,
}

// SAFETY: the memory belongs to no thread, and is unmapped only when the mapping is dropped.
#[allow(unsafe_code)]
unsafe impl Send for Mapping {}

// SAFETY: through a shared reference, users read and write it only atomically.
#[allow(unsafe_code)]
unsafe impl Sync for Mapping {}

impl Mapping {
    #[allow(unsafe_code)]
    pub(super) fn new(
        map: BorrowedFd<'_>,
        offset: usize,
        length: usize,
        protection: ProtFlags,
    ) -> Result<Mapping, Errno> {
        let flags = MapFlags::SHARED;
        // SAFETY: the kernel chooses the address, so that no other memory is replaced.
        let address =
            unsafe { mmap(ptr::null_mut(), length, protection, flags, map, offset as u64) }?;
        Ok(Mapping { address, length })
    }
}

impl Drop for Mapping {
    #[allow(unsafe_code)]
    fn drop(&mut self) {
        // SAFETY: nothing borrows from the mapping any more, and it is unmapped once.
        let _ = unsafe { munmap(self.address, self.length) };
    }
}
