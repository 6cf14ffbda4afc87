//! Rules that say in which form peers read replies, by the network they are in (docs/compatibility.md).

use std::{net::IpAddr, str::FromStr};

use ipnet::IpNet;
use lonja_wire::ReplyForm;

/// Rules `CIDR=FORM`, separated by commas; there may be none. For each peer the first rule that
/// matches counts.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Forms(Vec<(IpNet, ReplyForm)>);

/// The error for a text that is not a rule.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("not CIDR=FORM, such as 10.1.0.0/16=text; FORM is char, text, byte or names")]
pub struct BadFormRule;

impl FromStr for Forms {
    type Err = BadFormRule;

    fn from_str(text: &str) -> Result<Self, BadFormRule> {
        let rule = |text: &str| {
            let (network, form) = text.split_once('=').ok_or(BadFormRule)?;
            let network = match network.parse::<IpAddr>() {
                Ok(address) => address.into(),
                Err(_) => network.parse().map_err(|_| BadFormRule)?,
            };
            Ok((network, form.parse().map_err(|_| BadFormRule)?))
        };
        let texts = text.split(',').map(str::trim).filter(|text| !text.is_empty());
        Ok(Self(texts.map(rule).collect::<Result<_, _>>()?))
    }
}

impl Forms {
    /// The form that the rules say for a peer at this address; `None` if no rule does.
    pub(crate) fn of(&self, peer: IpAddr) -> Option<ReplyForm> {
        let peer = peer.to_canonical();
        self.0.iter().find(|(network, _)| network.contains(&peer)).map(|(_, form)| *form)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_rule_that_matches_counts() {
        let forms: Forms = "10.1.2.3=byte, 10.1.0.0/16=text,::1=names".parse().unwrap();
        let of = |peer: &str| forms.of(peer.parse().unwrap());
        assert_eq!(of("10.1.2.3"), Some(ReplyForm::Byte));
        assert_eq!(of("::ffff:10.1.9.9"), Some(ReplyForm::Text));
        assert_eq!(of("::1"), Some(ReplyForm::Names));
        assert_eq!(of("10.2.0.1"), None);
        assert_eq!("".parse(), Ok(Forms::default()));
        for bad in ["text", "10.1.0.0/16=", "10.1.0.0/33=text", "10.1.0.0/16=auto", "host=text"] {
            assert_eq!(bad.parse::<Forms>(), Err(BadFormRule), "{bad}");
        }
    }
}
