//! Numbers of devices.

/// The number that stat(2) returns for a number of the kernel (`dev_t`, with 20 bits for the minor number):
/// `new_encode_dev` in `include/linux/kdev_t.h`.
pub(crate) fn as_stat_returns(device: u32) -> u64 {
    const MINOR_BITS: u32 = 20;
    let (major, minor) = (u64::from(device >> MINOR_BITS), u64::from(device & 0xf_ffff));
    minor & 0xff | major << 8 | (minor & 0xf_ff00) << 12
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_device_has_the_number_that_makedev_returns() {
        for (major, minor, device) in [
            (0, 46, 46),
            (8, 17, 0x811),
            (259, 0, 0x1_0300),
            (253, 256, 0x10_fd00),
            (4095, 0xf_ffff, 0xffff_ffff),
        ] {
            assert_eq!(as_stat_returns(major << 20 | minor), device, "{major}:{minor}");
        }
    }
}
