use towline_agent::doors;
use towline_agent::runtime::{FILE_BYTES_MAX, FileKind};

/// Bytes of a block of an archive; where the sum of a header stands in it, and of how many bytes that is.
const BLOCK: usize = 512;
const SUM: std::ops::Range<usize> = 148..156;

/// Blocks whose sum is set right: headers of long names come before the one that is meant.
const HEADERS: usize = 6;

/// What an engine gives of a file in a container, whole or its beginning: as it is, and with sums that hold, which the engine of the
/// fuzzer cannot guess.
pub fn archive(data: &[u8]) {
    read(data);
    read(&with_sums(data));
}

fn read(data: &[u8]) {
    let head = doors::archive(data, 0);
    let full = doors::archive(data, FILE_BYTES_MAX);
    let (head, full) = match (head, full) {
        (Ok(head), Ok(full)) => (head, full),
        (Err(head), Err(full)) => {
            assert_eq!(head, full);
            return assert!(!full.trim().is_empty(), "refused without a word");
        }
        other => unreachable!("whether there is an entry depends on what is wanted of it: {other:?}"),
    };
    assert_eq!((head.stat, &head.link), (full.stat, &full.link));
    assert!(full.stat.mode <= 0o7777, "{:?}", full.stat);
    assert!(head.content.is_none_or(|content| content.is_empty()), "more than was wanted");
    if let Some(content) = &full.content {
        assert_eq!((full.stat.kind, full.stat.size), (FileKind::File, content.len() as u64));
        assert!(content.len() <= FILE_BYTES_MAX);
    }
    // Whoever stops where it is said to be enough knows what whoever reads on does.
    for most in [0, FILE_BYTES_MAX] {
        let cuts = (0..=data.len()).step_by(BLOCK / 2);
        for part in
            cuts.filter_map(|end| data.get(..end)).filter(|part| doors::is_enough_of_archive(part, most))
        {
            assert_eq!(doors::archive(part, most), doors::archive(data, most), "after {} bytes", part.len());
        }
    }
}

fn with_sums(data: &[u8]) -> Vec<u8> {
    let mut data = data.to_vec();
    for block in
        data.chunks_exact_mut(BLOCK).take(HEADERS).filter(|block| block.iter().any(|byte| *byte != 0))
    {
        if let Some(field) = block.get_mut(SUM) {
            field.fill(b' ');
        }
        let sum: u32 = block.iter().map(|byte| u32::from(*byte)).sum();
        if let Some(field) = block.get_mut(SUM) {
            field.copy_from_slice(format!("{sum:06o}\0 ").as_bytes());
        }
    }
    data
}
