use std::io::Write;

use flate2::{
    Compression,
    write::{DeflateEncoder, GzEncoder, ZlibEncoder},
};

use super::*;

fn compressed(coding: Coding, plain: &[u8]) -> Vec<u8> {
    match coding {
        Coding::Gzip => {
            let mut encoder = GzEncoder::new(Vec::new(), Compression::default());
            encoder.write_all(plain).unwrap();
            encoder.finish().unwrap()
        }
        Coding::Deflate => {
            let mut encoder = ZlibEncoder::new(Vec::new(), Compression::default());
            encoder.write_all(plain).unwrap();
            encoder.finish().unwrap()
        }
        Coding::Brotli => {
            let mut out = Vec::new();
            let mut encoder = ::brotli::CompressorWriter::new(&mut out, 4096, 5, 22);
            encoder.write_all(plain).unwrap();
            drop(encoder);
            out
        }
        Coding::Zstd => ruzstd::encoding::compress_to_vec(plain, ruzstd::encoding::CompressionLevel::Fastest),
    }
}

fn decoded(coding: Coding, text: &[u8], size: usize) -> Result<Vec<u8>, Broken> {
    let mut decoder = Decoder::new(coding);
    let mut plain = Vec::new();
    for chunk in text.chunks(size) {
        decoder.push(Bytes::copy_from_slice(chunk));
        while let Some(more) = decoder.plain()? {
            assert!(!more.is_empty() && more.len() <= CHUNK);
            plain.extend_from_slice(&more);
        }
    }
    decoder.finish()?;
    Ok(plain)
}

const ALL: [Coding; 4] = [Coding::Gzip, Coding::Deflate, Coding::Brotli, Coding::Zstd];

#[test]
fn every_coding_is_undone_at_any_chunk_size() {
    let short = b"{\"a\": \"b\"}".to_vec();
    let long: Vec<u8> = (0..200_000_u32).flat_map(|number| number.wrapping_mul(number).to_le_bytes()).collect();
    for coding in ALL {
        for plain in [&b""[..], &short] {
            let text = compressed(coding, plain);
            for size in 1..=text.len() {
                assert_eq!(decoded(coding, &text, size).as_deref(), Ok(plain), "{coding:?} by {size}");
            }
        }
        let text = compressed(coding, &long);
        for size in [1000, 65_537, text.len()] {
            assert!(decoded(coding, &text, size).as_ref() == Ok(&long), "{coding:?} by {size}");
        }
    }
}

#[test]
fn what_ends_early_or_is_something_else_is_broken() {
    for coding in ALL {
        let text = compressed(coding, &b"some text that is long enough to be cut".repeat(10));
        for length in 1..text.len() {
            assert_eq!(decoded(coding, &text[..length], 7), Err(Broken), "{coding:?} cut at {length}");
        }
        assert_eq!(decoded(coding, b"\xff\xffnot compressed at all, and long enough", 5), Err(Broken), "{coding:?}");
        assert_eq!(decoded(coding, b"", 1), Ok(Vec::new()), "an answer without a body");
    }
}

#[test]
fn a_bare_stream_is_taken_for_deflate_as_well() {
    let mut encoder = DeflateEncoder::new(Vec::new(), Compression::default());
    encoder.write_all(b"bare").unwrap();
    let text = encoder.finish().unwrap();
    for size in 1..=text.len() {
        assert_eq!(decoded(Coding::Deflate, &text, size).as_deref(), Ok(&b"bare"[..]));
    }
}

#[test]
fn streams_and_frames_may_follow_each_other() {
    for coding in [Coding::Gzip, Coding::Zstd] {
        let mut text = [compressed(coding, b"one, "), compressed(coding, b"two")].concat();
        if coding == Coding::Zstd {
            text.splice(0..0, [0x52, 0x2a, 0x4d, 0x18, 3, 0, 0, 0, 1, 2, 3]);
        }
        for size in 1..=text.len() {
            assert_eq!(decoded(coding, &text, size).as_deref(), Ok(&b"one, two"[..]), "{coding:?} by {size}");
        }
    }
    let trailed = [compressed(Coding::Gzip, b"one"), b"\0\0\0".to_vec()].concat();
    assert_eq!(decoded(Coding::Gzip, &trailed, 4).as_deref(), Ok(&b"one"[..]));
}

#[test]
fn a_bomb_goes_off_chunk_by_chunk() {
    let plain = vec![0; 64 << 20];
    for coding in [Coding::Gzip, Coding::Brotli, Coding::Zstd] {
        let mut decoder = Decoder::new(coding);
        decoder.push(compressed(coding, &plain).into());
        let mut length = 0;
        while let Some(chunk) = decoder.plain().unwrap() {
            assert!(chunk.len() <= CHUNK);
            length += chunk.len();
        }
        assert_eq!((length, decoder.finish()), (plain.len(), Ok(())), "{coding:?}");
    }
}

#[test]
fn what_is_flushed_comes_at_once() {
    let mut encoder = GzEncoder::new(Vec::new(), Compression::default());
    let mut decoder = Decoder::new(Coding::Gzip);
    for event in ["data: 1\n\n", "data: 2\n\n"] {
        encoder.write_all(event.as_bytes()).unwrap();
        encoder.flush().unwrap();
        decoder.push(std::mem::take(encoder.get_mut()).into());
        assert_eq!(decoder.plain(), Ok(Some(event.into())));
        assert_eq!(decoder.plain(), Ok(None));
    }
}

#[test]
fn an_answer_has_no_coding_or_one_that_is_known() {
    for (values, coding) in [
        (&[][..], Ok(None)),
        (&["identity"], Ok(None)),
        (&[""], Ok(None)),
        (&["gzip"], Ok(Some(Coding::Gzip))),
        (&["X-GZip"], Ok(Some(Coding::Gzip))),
        (&["identity, br"], Ok(Some(Coding::Brotli))),
        (&["zstd"], Ok(Some(Coding::Zstd))),
        (&["deflate"], Ok(Some(Coding::Deflate))),
        (&["gzip, br"], Err(Unknown)),
        (&["gzip", "gzip"], Err(Unknown)),
        (&["compress"], Err(Unknown)),
        (&["dcb"], Err(Unknown)),
        (&["aes128gcm"], Err(Unknown)),
    ] {
        let mut headers = HeaderMap::new();
        for value in values {
            headers.append(header::CONTENT_ENCODING, HeaderValue::from_static(value));
        }
        assert_eq!(Coding::of(&headers), coding, "{values:?}");
    }
}

#[test]
fn only_what_can_be_undone_as_it_comes_is_asked_for() {
    for (asked, sent) in [
        (None, None),
        (Some("gzip, deflate, br, zstd"), Some("gzip, deflate, br")),
        (Some("gzip;q=1.0, *;q=0.1"), Some("gzip;q=1.0")),
        (Some("gzip,deflate"), Some("gzip,deflate")),
        (Some("zstd"), Some("identity")),
        (Some("*"), Some("identity")),
        (Some("identity"), Some("identity")),
        (Some(""), Some("identity")),
        (Some("GZIP, compress"), Some("GZIP")),
    ] {
        let mut headers = HeaderMap::new();
        headers.insert("grpc-accept-encoding", HeaderValue::from_static("gzip"));
        if let Some(asked) = asked {
            headers.insert(header::ACCEPT_ENCODING, HeaderValue::from_static(asked));
        }
        narrow(&mut headers);
        let narrowed = headers.get(header::ACCEPT_ENCODING).map(|value| value.to_str().unwrap());
        assert_eq!(narrowed, sent, "{asked:?}");
        assert!(!headers.contains_key("grpc-accept-encoding"));
        headers.insert(header::RANGE, HeaderValue::from_static("bytes=0-9"));
        narrow(&mut headers);
        assert_eq!(headers[header::ACCEPT_ENCODING], "identity");
    }
}
