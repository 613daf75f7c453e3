//! [W3C Trace Context](https://www.w3.org/TR/trace-context-2/): which trace a request is part of.
//!
//! A client that traces says so in `traceparent`, and the request becomes a span of its trace. Any other request begins a
//! trace of its own. A header that is not well-formed is as good as none, and never a reason to refuse the request.

use std::fmt;
use std::num::{NonZeroU64, NonZeroU128};

use actix_web::http::header::{HeaderMap, HeaderName};
use leadr_auth_domain::redact_keys;

use crate::hex::write_hex;

const TRACEPARENT: HeaderName = HeaderName::from_static("traceparent");
const TRACESTATE: HeaderName = HeaderName::from_static("tracestate");

/// The answer's header that says which span the request became.
pub(crate) const TRACERESPONSE: HeaderName = HeaderName::from_static("traceresponse");

/// The longest `tracestate` that is taken over; the least that the specification asks for.
const MAX_TRACESTATE: usize = 512;

/// The caller may have recorded the trace.
const SAMPLED: u8 = 0b01;
/// The trace's id is random; whoever hands it on has to say so too.
const RANDOM: u8 = 0b10;

/// A trace, shown as the 32 digits that headers and logs have.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) struct TraceId(NonZeroU128);

impl fmt::Display for TraceId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:032x}", self.0)
    }
}

/// A span of a trace, shown as 16 digits.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) struct SpanId(NonZeroU64);

impl fmt::Display for SpanId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:016x}", self.0)
    }
}

/// What a client says about the span that sent the request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Parent {
    trace_id: TraceId,
    pub(crate) span_id: SpanId,
    flags: u8,
}

impl Parent {
    /// The parent that the headers name; none where they name more than one.
    fn of(headers: &HeaderMap) -> Option<Self> {
        let mut given = headers.get_all(TRACEPARENT);
        match (given.next(), given.next()) {
            (Some(value), None) => Self::parse(value.to_str().ok()?),
            _ => None,
        }
    }

    /// Reads `<version>-<trace id>-<parent id>-<flags>`, all in small hexadecimal digits. A version that came after 00 may
    /// have more behind that.
    fn parse(text: &str) -> Option<Self> {
        let mut fields = text.split('-');
        let mut field = |digits| hex(fields.next()?, digits);
        let version = field(2)?;
        let trace_id = field(32)?;
        let span_id = field(16)?;
        let flags = field(2)?;
        let known = match version {
            0 if fields.next().is_some() => return None,
            0 => SAMPLED | RANDOM,
            // 255 is forbidden: it is kept for "no version".
            0xff => return None,
            // Of later versions, only what they promise to keep.
            _ => SAMPLED,
        };
        Some(Self {
            trace_id: TraceId(NonZeroU128::new(trace_id)?),
            span_id: SpanId(NonZeroU64::new(u64::try_from(span_id).ok()?)?),
            flags: u8::try_from(flags).ok()? & known,
        })
    }

    pub(crate) fn sampled(self) -> bool {
        self.flags & SAMPLED != 0
    }
}

/// So many digits and nothing else; capitals are no digits here.
fn hex(text: &str, digits: usize) -> Option<u128> {
    let allowed = |b: u8| matches!(b, b'0'..=b'9' | b'a'..=b'f');
    if text.len() != digits || !text.bytes().all(allowed) {
        return None;
    }
    u128::from_str_radix(text, 16).ok()
}

/// Where a request stands in its trace. Shown as the value of `traceresponse`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct TraceContext {
    pub(crate) trace_id: TraceId,
    /// The request's own span.
    pub(crate) span_id: SpanId,
    /// The span that sent it, where the client said which.
    pub(crate) parent: Option<Parent>,
}

impl TraceContext {
    /// The place of the `n`th request of a process. `instance` is a number that other processes do not have, best 64 random
    /// bits.
    ///
    /// Ids are not drawn but computed: `instance` is the only randomness there is. Each is a mixture of it and of `n` that
    /// can be undone, so two requests of a process never get the same, and those of two processes only where their
    /// `instance` is the same (a trace), or differs by less than the requests that they serve (a span).
    pub(crate) fn new(headers: &HeaderMap, instance: u64, n: u64) -> Self {
        let parent = Parent::of(headers);
        let low = mix(instance.wrapping_add(n));
        let span_id = NonZeroU64::new(mix(!low)).unwrap_or(NonZeroU64::MIN);
        let begun = || {
            let high = mix(instance ^ low);
            let id = u128::from(high) << 64 | u128::from(low);
            TraceId(NonZeroU128::new(id).unwrap_or(NonZeroU128::MIN))
        };
        Self {
            trace_id: parent.map_or_else(begun, |parent| parent.trace_id),
            span_id: SpanId(span_id),
            parent,
        }
    }
}

impl fmt::Display for TraceContext {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&String::from_utf8_lossy(&self.traceresponse()))
    }
}

impl TraceContext {
    /// The value of `traceresponse`.
    pub(crate) fn traceresponse(&self) -> [u8; 55] {
        // The client's flags go back as they came. Whether a trace that begins here is recorded is not known here; and its id
        // is not random by the letter of the specification.
        let flags = self.parent.map_or(0, |parent| parent.flags);
        // Version, trace id, span id and flags, with hyphens between them.
        let mut text = [b'-'; 55];
        let fields = [
            (0..2, 0),
            (3..35, self.trace_id.0.get()),
            (36..52, self.span_id.0.get().into()),
            (53..55, flags.into()),
        ];
        for (place, number) in fields {
            if let Some(digits) = text.get_mut(place) {
                write_hex(digits, number);
            }
        }
        text
    }
}

/// Spreads every bit over all 64, by the last steps of `SplitMix64`. Each can be undone, so no two numbers become the same.
const fn mix(n: u64) -> u64 {
    let n = (n ^ (n >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    let n = (n ^ (n >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    n ^ (n >> 31)
}

/// What other tracing systems keep with the trace, unchanged. None where it is too long, is not printable ASCII, or hides a
/// key: it is for them to hand on, and a part of it would be wrong.
pub(crate) fn trace_state(headers: &HeaderMap) -> Option<String> {
    let given: Vec<&str> = headers
        .get_all(TRACESTATE)
        .map(|value| value.to_str().ok())
        .collect::<Option<_>>()?;
    let state = given.join(",");
    let fits = !state.is_empty() && state.len() <= MAX_TRACESTATE;
    (fits && redact_keys(&state) == state).then_some(state)
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;

    use actix_web::http::header::HeaderValue;
    use leadr_auth_domain::generate_api_key;

    use super::*;

    const TRACE: &str = "4bf92f3577b34da6a3ce929d0e0e4736";
    const SPAN: &str = "00f067aa0ba902b7";

    fn headers(values: &[(HeaderName, &str)]) -> HeaderMap {
        let mut headers = HeaderMap::new();
        for (name, value) in values {
            let value = HeaderValue::from_bytes(value.as_bytes()).unwrap();
            headers.append(name.clone(), value);
        }
        headers
    }

    fn context(value: &str) -> TraceContext {
        TraceContext::new(&headers(&[(TRACEPARENT, value)]), 7, 1)
    }

    fn parent(value: &str) -> Option<Parent> {
        context(value).parent
    }

    #[test]
    fn the_request_becomes_a_span_of_the_clients_trace() {
        let context = context(&format!("00-{TRACE}-{SPAN}-01"));
        assert_eq!(context.trace_id.to_string(), TRACE);
        let parent = context.parent.unwrap();
        assert_eq!(parent.span_id.to_string(), SPAN);
        assert!(parent.sampled());
        assert_ne!(context.span_id, parent.span_id);
        let answer = format!("00-{TRACE}-{}-01", context.span_id);
        assert_eq!(context.to_string(), answer);
        assert_eq!(answer.len(), 55);
    }

    #[test]
    fn flags_are_handed_on_as_far_as_they_are_known() {
        for (version, given, answered) in [
            ("00", "00", "00"),
            ("00", "01", "01"),
            ("00", "02", "02"),
            ("00", "ff", "03"),
            ("00", "fc", "00"),
            ("01", "ff", "01"),
            ("fe", "02", "00"),
        ] {
            let context = context(&format!("{version}-{TRACE}-{SPAN}-{given}"));
            let answer = context.to_string();
            assert!(answer.starts_with("00-"), "the version that is spoken here");
            assert!(
                answer.ends_with(&format!("-{answered}")),
                "{version} {given}"
            );
            assert_eq!(
                context.parent.unwrap().sampled(),
                answered.ends_with(['1', '3'])
            );
        }
    }

    #[test]
    fn what_is_not_well_formed_is_ignored() {
        let good = format!("00-{TRACE}-{SPAN}-01");
        assert!(parent(&good).is_some());
        let zeros = |digits: usize| "0".repeat(digits);
        for bad in [
            String::new(),
            "00".to_owned(),
            "-".repeat(55),
            format!("00-{}-{SPAN}-01", zeros(32)),
            format!("00-{TRACE}-{}-01", zeros(16)),
            format!("ff-{TRACE}-{SPAN}-01"),
            format!("0-{TRACE}-{SPAN}-01"),
            format!("000-{TRACE}-{SPAN}-01"),
            format!("00-{}-{SPAN}-01", TRACE.to_uppercase()),
            format!("0A-{TRACE}-{SPAN}-01"),
            format!("00-{TRACE}-{SPAN}-0A"),
            format!("00-{TRACE}-{SPAN}"),
            format!("00-{TRACE}-{SPAN}-"),
            format!("00-{TRACE}-{SPAN}-1"),
            format!("00-{TRACE}-{SPAN}-001"),
            format!("00-{TRACE}-{SPAN}-01-"),
            format!("00-{TRACE}-{SPAN}-01-more"),
            format!("00-{TRACE}0-{SPAN}-01"),
            format!("00-{TRACE}-{SPAN}0-01"),
            format!("00-{SPAN}-{TRACE}-01"),
            format!("00_{TRACE}_{SPAN}_01"),
            format!(" 00-{TRACE}-{SPAN}-01"),
            format!("00-+{}-{SPAN}-01", TRACE.split_at(1).1),
            format!("00-é{}-{SPAN}-01", TRACE.split_at(2).1),
            format!("{good},{good}"),
            format!("cc-{TRACE}-{SPAN}-01.more"),
            format!("cc-{TRACE}-{SPAN}-0"),
            format!("cc-{}-{SPAN}-01", zeros(32)),
        ] {
            let context = context(&bad);
            assert_eq!(context.parent, None, "{bad}");
            assert_ne!(context.trace_id.to_string(), TRACE, "{bad}");
            assert!(context.to_string().ends_with("-00"), "{bad}");
        }
    }

    /// Every place of a good value, with every character that could stand there instead.
    #[test]
    fn a_change_anywhere_is_another_id_or_none() {
        let good = format!("00-{TRACE}-{SPAN}-01");
        for place in 0..good.len() {
            for other in (0x20..0x7f_u8).map(char::from) {
                let mut changed: Vec<char> = good.chars().collect();
                if changed[place] == other {
                    continue;
                }
                changed[place] = other;
                let changed: String = changed.into_iter().collect();
                let digit = matches!(other, '0'..='9' | 'a'..='f');
                let read = parent(&changed);
                let expected = digit && !matches!(place, 2 | 35 | 52);
                assert_eq!(read.is_some(), expected, "{changed}");
                let Some(read) = read else { continue };
                let written = format!("-{}-{}-", read.trace_id, read.span_id);
                assert!(changed.contains(&written), "{changed}");
            }
        }
    }

    #[test]
    fn a_later_version_may_have_more() {
        for later in ["", "-", "-what-the-future-brings", "-é"] {
            let value = format!("cc-{TRACE}-{SPAN}-01{later}");
            let read = parent(&value);
            assert_eq!(read.is_some(), later != "-é", "{value}");
        }
    }

    #[test]
    fn two_parents_are_none() {
        let value = format!("00-{TRACE}-{SPAN}-01");
        let twice = headers(&[(TRACEPARENT, &value), (TRACEPARENT, &value)]);
        assert_eq!(TraceContext::new(&twice, 7, 1).parent, None);
    }

    #[test]
    fn no_two_requests_have_the_same_ids() {
        let none = HeaderMap::new();
        let mut traces = HashSet::new();
        let mut spans = HashSet::new();
        for instance in [0, 1 << 32, u64::MAX - 5000] {
            for n in 0..1000 {
                let context = TraceContext::new(&none, instance, n);
                assert!(traces.insert(context.trace_id));
                assert!(spans.insert(context.span_id));
                assert_eq!(context.trace_id.to_string().len(), 32);
            }
        }
        // Processes whose numbers are neighbours share spans, and no traces.
        let one = TraceContext::new(&none, 7, 2);
        let other = TraceContext::new(&none, 8, 1);
        assert_eq!(one.span_id, other.span_id);
        assert_ne!(one.trace_id, other.trace_id);
    }

    #[test]
    fn a_trace_state_is_kept_whole_or_not_at_all() {
        let state = |values: &[&str]| {
            let values: Vec<_> = values.iter().map(|value| (TRACESTATE, *value)).collect();
            trace_state(&headers(&values))
        };
        assert_eq!(state(&[]), None);
        assert_eq!(state(&[""]), None);
        assert_eq!(state(&["a=1, b=2"]).as_deref(), Some("a=1, b=2"));
        assert_eq!(state(&["a=1", "b=2"]).as_deref(), Some("a=1,b=2"));
        let longest = "x".repeat(MAX_TRACESTATE);
        assert_eq!(state(&[&longest]).as_deref(), Some(longest.as_str()));
        assert_eq!(state(&[&longest, "y"]), None);
        assert_eq!(state(&["a=é"]), None);
        assert_eq!(state(&["a=1", "b=é"]), None);
        let key = generate_api_key([1; 32]);
        assert_eq!(state(&[&format!("a={}", key.expose())]), None);
    }
}
