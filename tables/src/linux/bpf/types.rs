//! The kernel's description of its own types.

use super::error::LoadError;
use super::kernel_members::LayoutError;
use crate::formats::linux::btf::Btf;

pub(super) const TYPES: &str = "/sys/kernel/btf/vmlinux";

/// Reads the layout of these structures and functions of the running kernel.
pub(super) fn read_layout<T>(
    names: &[&str],
    layout: impl FnOnce(&Btf) -> Result<T, LayoutError>,
) -> Result<T, LoadError> {
    let bytes =
        std::fs::read(TYPES).map_err(|source| LoadError::ReadTypes { path: TYPES, source })?;
    let read = Btf::parse(&bytes, names).map_err(LayoutError::from).and_then(|btf| layout(&btf));
    read.map_err(|source| LoadError::Layout { path: TYPES, source })
}
