//! The table, with records of a test in place of the kernel's.
