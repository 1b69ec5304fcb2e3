//! The kernel's clocks (clock_gettime(2)).

use rustix::time::{ClockId, Timespec, clock_gettime};

const SECOND: i64 = 1_000_000_000;

/// CLOCK_BOOTTIME in nanoseconds, and the UNIX time at that moment.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Clocks {
    pub(crate) boot_ns: u64,
    /// UNIX time minus CLOCK_BOOTTIME, in nanoseconds. A step of the clock changes it.
    offset_ns: i64,
}

impl Clocks {
    pub(crate) fn now() -> Clocks {
        let boot = nanoseconds(clock_gettime(ClockId::Boottime));
        let unix = nanoseconds(clock_gettime(ClockId::Realtime));
        let offset_ns = unix.saturating_sub(boot);
        Clocks { boot_ns: u64::try_from(boot).unwrap_or_default(), offset_ns }
    }

    pub(crate) fn offset_ns(self) -> i64 {
        self.offset_ns
    }

    /// The UNIX second of a boot time, by the clock as it is set now.
    pub(crate) fn unix_seconds(self, boot_ns: u64) -> i64 {
        let boot_ns = i64::try_from(boot_ns).unwrap_or(i64::MAX);
        boot_ns.saturating_add(self.offset_ns).div_euclid(SECOND)
    }

    #[cfg(test)]
    pub(crate) fn at(boot_ns: u64, unix_ns: i64) -> Clocks {
        Clocks { boot_ns, offset_ns: unix_ns - boot_ns.cast_signed() }
    }
}

/// `ktime_t` has 64 bits, too: the kernel has no later time.
fn nanoseconds(time: Timespec) -> i64 {
    time.tv_sec.saturating_mul(SECOND).saturating_add(time.tv_nsec)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_boot_time_has_the_unix_second_of_the_clock_now() {
        let second = 1_000_000_000u64;
        let clocks = Clocks::at(100 * second, 1_700_000_000_500_000_000);
        assert_eq!(clocks.unix_seconds(100 * second), 1_700_000_000);
        assert_eq!(clocks.unix_seconds(100 * second + second / 2), 1_700_000_001);
        assert_eq!(clocks.unix_seconds(0), 1_699_999_900);
        // A clock that was never set.
        assert_eq!(Clocks::at(100 * second, 0).unix_seconds(0), -100);
    }
}
