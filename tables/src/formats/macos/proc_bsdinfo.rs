//! `struct proc_bsdinfo`, the answer of PROC_PIDTBSDINFO (`bsd/sys/proc_info.h` of XNU).

/// The length of the record.
pub(crate) const LENGTH: usize = 136;

/// The fields that this crate reads.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct BsdInfo {
    pub(crate) parent: i32,
    pub(crate) effective_uid: u32,
    pub(crate) real_uid: u32,
    /// `pbi_name`, or, if the process has none, `pbi_comm`.
    pub(crate) name: Vec<u8>,
    /// Seconds since 1970, and microseconds: with the pid, they identify the process.
    pub(crate) start: (u64, u64),
}

/// None if the answer is too short.
pub(crate) fn parse(answer: &[u8]) -> Option<BsdInfo> {
    let answer: &[u8; LENGTH] = answer.first_chunk()?;
    let long = |name: &[u8]| text(name).map(<[u8]>::to_vec);
    let name = long(answer.get(64..96)?).or_else(|| long(answer.get(48..64)?));
    Some(BsdInfo {
        parent: i32::from_ne_bytes(number(answer, 16)?),
        effective_uid: u32::from_ne_bytes(number(answer, 20)?),
        real_uid: u32::from_ne_bytes(number(answer, 28)?),
        name: name.unwrap_or_default(),
        start: (u64::from_ne_bytes(number(answer, 120)?), u64::from_ne_bytes(number(answer, 128)?)),
    })
}

fn number<const N: usize>(answer: &[u8], offset: usize) -> Option<[u8; N]> {
    answer.get(offset..)?.first_chunk().copied()
}

/// The bytes before the first NUL; None if there are none.
fn text(bytes: &[u8]) -> Option<&[u8]> {
    bytes.split(|&byte| byte == 0).next().filter(|text| !text.is_empty())
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A record whose members are these, and 0xff elsewhere.
    fn record(comm: &[u8], name: &[u8]) -> Vec<u8> {
        let mut record = vec![0xff; LENGTH];
        let mut put = |offset: usize, bytes: &[u8]| {
            record[offset..offset + bytes.len()].copy_from_slice(bytes);
        };
        put(16, &7_u32.to_ne_bytes());
        put(20, &0_u32.to_ne_bytes());
        put(28, &501_u32.to_ne_bytes());
        put(48, &[0; 48]);
        put(48, comm);
        put(64, name);
        put(120, &1_790_000_000_u64.to_ne_bytes());
        put(128, &999_999_u64.to_ne_bytes());
        record
    }

    #[test]
    fn each_member_is_read_at_its_offset() {
        let info = parse(&record(b"short", b"a longer name")).unwrap();
        assert_eq!((info.parent, info.effective_uid, info.real_uid), (7, 0, 501));
        assert_eq!(info.name, b"a longer name");
        assert_eq!(info.start, (1_790_000_000, 999_999));
    }

    #[test]
    fn a_process_without_a_name_has_its_command() {
        assert_eq!(parse(&record(b"short", b"")).unwrap().name, b"short");
        // Neither need end with a NUL.
        assert_eq!(parse(&record(&[b'c'; 16], &[])).unwrap().name, [b'c'; 16]);
        assert_eq!(parse(&record(&[b'c'; 16], &[b'n'; 32])).unwrap().name, [b'n'; 32]);
    }

    #[test]
    fn a_short_answer_is_no_record() {
        assert_eq!(parse(&record(b"a", b"b")[..LENGTH - 1]), None);
        assert_eq!(parse(b""), None);
    }
}
