//! The tokens that open the console, and the service for operators.

use std::str::FromStr;

use subtle::ConstantTimeEq as _;
use tonic::{Request, Status, metadata::MetadataValue, service::Interceptor};

/// The token that callers must show. If the token is empty, callers need not show a token.
#[derive(Clone)]
pub struct Token(Box<str>);

/// The error for a text that cannot be sent as a token.
#[derive(Debug, thiserror::Error)]
#[error("use at most 256 letters, digits and signs, without spaces")]
pub struct BadToken;

impl FromStr for Token {
    type Err = BadToken;

    fn from_str(text: &str) -> Result<Self, BadToken> {
        let fits = text.len() <= 256 && text.bytes().all(|byte| byte.is_ascii_graphic());
        if fits { Ok(Self(text.into())) } else { Err(BadToken) }
    }
}

impl Token {
    pub(crate) fn is_set(&self) -> bool {
        !self.0.is_empty()
    }
}

impl std::fmt::Debug for Token {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Token(...)")
    }
}

/// Lets only those calls through that show the token, or all calls if the token is empty.
#[derive(Debug, Clone)]
pub(crate) struct Guard {
    token: Token,
    /// Who needs the token.
    who: &'static str,
    /// The setting that has the token.
    setting: &'static str,
}

impl Guard {
    /// The guard of what everyone may look at who has the console's token.
    pub(crate) fn of_the_console(token: Token) -> Self {
        Self { token, who: "the console needs", setting: "LONJA_CONSOLE_TOKEN" }
    }

    /// The guard of what only operators may do.
    pub(crate) fn of_operators(token: Token) -> Self {
        Self { token, who: "operators need", setting: "LONJA_ADMIN_TOKEN" }
    }
}

impl Interceptor for Guard {
    fn call(&mut self, request: Request<()>) -> Result<Request<()>, Status> {
        let Token(token) = &self.token;
        let shown = request.metadata().get("authorization").map(MetadataValue::as_bytes);
        let shown = shown.and_then(|shown| shown.strip_prefix(b"Bearer ")).unwrap_or_default();
        // The comparison takes the same time however much of the token is right, so that nobody can
        // find it out bit by bit.
        if !self.token.is_set() || bool::from(shown.ct_eq(token.as_bytes())) {
            return Ok(request);
        }
        let Self { who, setting, .. } = self;
        Err(Status::unauthenticated(if shown.is_empty() {
            format!("{who} a token: the value of {setting}")
        } else {
            format!("this token is not the value of {setting}")
        }))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn is_let_through(guard: &str, shown: Option<&'static str>) -> bool {
        let mut request = Request::new(());
        if let Some(shown) = shown {
            request.metadata_mut().insert("authorization", MetadataValue::from_static(shown));
        }
        Guard::of_the_console(guard.parse().unwrap()).call(request).is_ok()
    }

    #[test]
    fn only_the_token_opens() {
        assert!(is_let_through("", None));
        assert!(is_let_through("secret", Some("Bearer secret")));
        for shown in [None, Some("secret"), Some("Bearer "), Some("Bearer secre"), Some("Bearer secrets")] {
            assert!(!is_let_through("secret", shown), "{shown:?}");
        }
        assert!("two words".parse::<Token>().is_err());
    }
}
