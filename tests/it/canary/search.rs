//! What is searched for, and in which forms: as it is, and as text and bytes are written down on their way.

use aws_lc_rs::signature::{
    ECDSA_P256_SHA256_FIXED, RSA_PKCS1_2048_8192_SHA256, UnparsedPublicKey, VerificationAlgorithm,
};
use base64::{
    Engine,
    engine::general_purpose::{STANDARD, URL_SAFE_NO_PAD},
};
use memchr::memmem;
use rcgen::{KeyPair, PublicKeyData};

/// A secret, and what it is.
#[derive(Clone)]
pub struct Secret {
    pub what: String,
    forms: Vec<Vec<u8>>,
}

impl Secret {
    /// One that is text. The middle of it counts, so that cutting it short hides nothing.
    pub fn text(what: &str, value: &str) -> Self {
        let cut = value.len().saturating_sub(WINDOW) / 2;
        let middle = value.get(cut..value.len() - cut).expect("secrets of tests are ASCII");
        assert!(middle.len() >= 12, "{what}: short texts are found everywhere");
        let mut secret = Self::bytes(what, middle.as_bytes());
        secret.forms.push(folded(middle.as_bytes()));
        secret
    }

    /// A private key in PEM. What is secret of it stands in the middle.
    pub fn key(what: &str, pem: &str) -> Self {
        let body: Vec<&str> = pem.lines().filter(|line| !line.starts_with("--")).collect();
        let line = body[body.len() / 2].trim_end_matches('=');
        let line = line.get(..24).expect("lines of PEM are long");
        Self::bytes(what, &STANDARD.decode(line).expect("PEM is base64"))
    }

    /// Bytes: in base64, in hexadecimal, escaped as in URLs, and as `Debug` shows them.
    pub fn bytes(what: &str, value: &[u8]) -> Self {
        let hex: String = value.iter().map(|byte| format!("{byte:02x}")).collect();
        let escaped: String = value.iter().map(|byte| format!("%{byte:02x}")).collect();
        let listed = format!("{value:?}");
        let mut forms = vec![hex, escaped, listed.trim_matches(['[', ']']).to_owned()];
        // Whatever stands before it moves it against the groups of three.
        forms.extend((0..3).map(|before| {
            let encoded = STANDARD.encode([&vec![0; before], value].concat());
            let (from, to) = ((before * 4).div_ceil(3), (before + value.len()) * 4 / 3);
            encoded[from..to].to_owned()
        }));
        Self { what: what.to_owned(), forms: forms.iter().map(|form| folded(form.as_bytes())).collect() }
    }

    /// Whether it stands in what was [`folded`].
    pub fn is_in(&self, folded: &[u8]) -> bool {
        self.forms.iter().any(|form| memmem::find(folded, form).is_some())
    }
}

/// Text in which neither case nor the alphabet of base64 makes a difference.
pub fn folded(text: &[u8]) -> Vec<u8> {
    let fold = |byte: &u8| match byte {
        b'-' => b'+',
        b'_' => b'/',
        byte => byte.to_ascii_lowercase(),
    };
    text.iter().map(fold).collect()
}

/// Everything in a text that is a JSON Web Token.
pub fn tokens(text: &str) -> Vec<String> {
    let is_part = |c: char| c.is_ascii_alphanumeric() || matches!(c, '-' | '_' | '.');
    let words = text.split(|c| !is_part(c));
    let is_token = |word: &&str| word.starts_with("ey") && word.matches('.').count() == 2 && word.len() > 60;
    let mut tokens: Vec<String> = words.filter(is_token).map(str::to_owned).collect();
    tokens.sort();
    tokens.dedup();
    tokens
}

/// Whether this key signed one of these tokens.
pub fn signed_one_of(key: &KeyPair, tokens: &[String]) -> bool {
    let algorithm: &dyn VerificationAlgorithm = match key.is_compatible(&rcgen::PKCS_ECDSA_P256_SHA256) {
        true => &ECDSA_P256_SHA256_FIXED,
        false => &RSA_PKCS1_2048_8192_SHA256,
    };
    let public = UnparsedPublicKey::new(algorithm, key.der_bytes());
    tokens.iter().any(|token| {
        let (signed, signature) = token.rsplit_once('.').expect("it has three parts");
        let signature = URL_SAFE_NO_PAD.decode(signature);
        signature.is_ok_and(|signature| public.verify(signed.as_bytes(), &signature).is_ok())
    })
}

/// How much of a secret has to be seen.
const WINDOW: usize = 18;

#[test]
fn a_secret_is_found_in_every_form() {
    let key = KeyPair::generate().expect("a key can be made").serialize_pem();
    let der = pem::parse(&key).expect("it is PEM").into_contents();
    let (text, key) = (Secret::text("text", "ought-not-be-0007-seen-anywhere"), Secret::key("key", &key));
    for (secret, value) in [(text, "ought-not-be-0007-seen-anywhere".as_bytes()), (key, &*der)] {
        for before in ["", "a", "ab", "user:"] {
            let value = [before.as_bytes(), value].concat();
            let forms = [
                STANDARD.encode(&value),
                URL_SAFE_NO_PAD.encode(&value),
                value.iter().map(|byte| format!("{byte:02X}")).collect(),
                value.iter().map(|byte| format!("%{byte:02X}")).collect(),
                format!("{value:?}"),
            ];
            for form in forms {
                assert!(secret.is_in(&folded(form.as_bytes())), "{} {form}", secret.what);
            }
        }
        assert!(!secret.is_in(&folded(STANDARD.encode([7; 200]).as_bytes())));
    }
}
