//! The secret that opens the dashboard. Pure.

use mooseng_core::join::sha256;
use std::fmt;
use subtle::ConstantTimeEq as _;

/// Characters of a token at least: nobody guesses as many that were drawn.
pub const TOKEN_CHARS_MIN: usize = 16;
/// Bytes of a token at most.
pub const TOKEN_BYTES_MAX: usize = 1024;
/// What is hashed besides the token's hash for the cookie, so that the cookie is not the token.
const COOKIE: &[u8] = b"mooseng-dashboard cookie 1\0";

/// Why a token was refused.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
#[non_exhaustive]
pub enum TokenError {
    /// It could be guessed.
    #[error("a token has at least {TOKEN_CHARS_MIN} characters: draw one, as with `openssl rand -base64 24`")]
    Short,
    /// It is too long.
    #[error("a token has at most {TOKEN_BYTES_MAX} bytes")]
    Long,
    /// It cannot be sent in a header.
    #[error("a token is of visible ASCII characters, without spaces")]
    Characters,
}

/// The secret that opens the dashboard. It keeps hashes only, and compares in constant time.
#[derive(Clone)]
pub struct Token {
    token: [u8; 32],
    cookie: [u8; 32],
}

impl fmt::Debug for Token {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Token")
    }
}

impl Token {
    /// From its text, as a file has it: spaces and line ends around it do not count.
    pub fn new(text: &str) -> Result<Self, TokenError> {
        let text = text.trim();
        match text.len() {
            n if n < TOKEN_CHARS_MIN => return Err(TokenError::Short),
            n if n > TOKEN_BYTES_MAX => return Err(TokenError::Long),
            _ => {}
        }
        if !text.bytes().all(|b| b.is_ascii_graphic()) {
            return Err(TokenError::Characters);
        }
        let token = sha256(text.as_bytes());
        Ok(Self { token, cookie: sha256(&[COOKIE, &token].concat()) })
    }

    /// Whether somebody presented it. Takes as long for a wrong one.
    pub fn accepts(&self, presented: &str) -> bool {
        sha256(presented.trim().as_bytes()).ct_eq(&self.token).into()
    }

    /// What a browser keeps instead of it. The token cannot be told from it.
    pub(crate) fn cookie(&self) -> String {
        self.cookie.iter().map(|b| format!("{b:02x}")).collect()
    }

    /// Whether a browser's cookie is of this token.
    pub(crate) fn accepts_cookie(&self, presented: &str) -> bool {
        let (right, presented) = (sha256(self.cookie().as_bytes()), sha256(presented.as_bytes()));
        presented.ct_eq(&right).into()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_token_is_accepted() {
        let token = Token::new(" 0123456789abcdef\n").unwrap();
        assert!(token.accepts("0123456789abcdef"));
        for wrong in ["", "0123456789abcdeF", "0123456789abcde", "0123456789abcdef0", &token.cookie()] {
            assert!(!token.accepts(wrong), "{wrong}");
        }
        assert!(token.accepts_cookie(&token.cookie()));
        let other = Token::new("0123456789abcdeF").unwrap();
        for wrong in ["", "0123456789abcdef", &other.cookie(), &token.cookie().to_uppercase()] {
            assert!(!token.accepts_cookie(wrong), "{wrong}");
        }
        assert_eq!(format!("{token:?}"), "Token");
    }

    #[test]
    fn what_could_be_guessed_or_not_be_sent_is_no_token() {
        let of = |n: usize| Token::new(&"x".repeat(n)).map(drop);
        assert_eq!(of(TOKEN_CHARS_MIN - 1), Err(TokenError::Short));
        assert_eq!((of(TOKEN_CHARS_MIN), of(TOKEN_BYTES_MAX)), (Ok(()), Ok(())));
        assert_eq!(of(TOKEN_BYTES_MAX + 1), Err(TokenError::Long));
        assert_eq!(Token::new("0123456789 abcdef").map(drop), Err(TokenError::Characters));
        assert_eq!(Token::new("0123456789äabcdef").map(drop), Err(TokenError::Characters));
    }
}
