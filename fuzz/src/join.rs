use bytes::Bytes;
use towline_bus::exchange;
use towline_protocol::frame::{Encoding, Frame, Header, Kind, Total};

/// The frames of a large message. The engine cannot guess a digest, so the input says how to cut a body whose digest
/// holds: what is announced, and which frames come twice or not at all.
pub fn join(data: &[u8]) {
    let Some((&[flags, announced_high, announced_low, cut], body)) = data.split_first_chunk::<4>() else {
        return;
    };
    let compressed = flags & 1 != 0;
    let doubled = flags & 2 != 0;
    let missing = (flags & 4 != 0).then_some(1 + usize::from(flags >> 4));
    let full_bytes =
        u64::from(u16::from_be_bytes([announced_high, announced_low])) * 16 + u64::from(flags >> 4);
    let mut total = Total::of(body, 0);
    // Eight: as it should be; what is announced otherwise is what the input says.
    total.full_bytes = if flags & 8 != 0 { body.len() as u64 } else { full_bytes };
    let frames = body.chunks(usize::from(cut) + 1).zip(0_u32..).map(|(piece, sequence)| {
        let first = sequence == 0;
        let mut header = Header::new(if first { Kind::Reply } else { Kind::Chunk }, Encoding::MessagePack);
        (header.sequence, header.compressed, header.total) = (sequence, compressed, first.then_some(total));
        Frame { header, body: Bytes::copy_from_slice(piece) }
    });
    let sent: Vec<Frame> = frames
        .enumerate()
        .filter(|(index, _)| missing != Some(*index))
        .flat_map(|(_, frame)| vec![frame; if doubled { 2 } else { 1 }])
        .collect();
    let all_sent =
        !body.is_empty() && missing.is_none_or(|index| index * (usize::from(cut) + 1) >= body.len());
    match exchange::join(sent) {
        Some(whole) => {
            assert!(all_sent, "made whole without frame {missing:?}");
            assert_eq!(whole.len() as u64, total.full_bytes, "another size than announced");
            assert!(compressed || whole == body, "joined into something else");
        }
        None => {
            let honest = all_sent && !compressed && total.full_bytes == body.len() as u64;
            assert!(!honest, "a message that was sent did not arrive");
        }
    }
}
