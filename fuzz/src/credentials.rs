use towline_bus::doors;

/// Bytes of a signature.
const SIGNATURE: usize = 64;

/// A `.creds` file: what is sent to a server is the JWT as it stands there and a signature, and what is wrong is said in a short
/// sentence, whatever stands there.
pub fn credentials(data: &[u8]) {
    const NONCE: &[u8] = b"nonce";
    let Ok(text) = std::str::from_utf8(data) else { return };
    match doors::credentials(text, NONCE) {
        Ok((jwt, signature)) => {
            assert!(!jwt.is_empty() && !jwt.contains(char::is_whitespace), "{jwt:?}");
            assert!(text.contains(&jwt), "{jwt:?} does not stand in the file");
            assert_eq!(signature.len(), SIGNATURE);
            let again = doors::credentials(text, NONCE);
            assert_eq!(again, Ok((jwt, signature)));
        }
        Err(why) => assert!((1..200).contains(&why.len()), "{why:?}"),
    }
}
