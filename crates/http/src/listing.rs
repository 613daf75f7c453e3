//! Lists in pages: how many rows, in which order, from where on, and the link to the next page.
//!
//! Without a `limit` a list is what the reference implementation answers, an array of all there is; but of a thousand rows at the
//! most, because somebody has to hold them all at once. Where there is more, a header `Link` (RFC 8288) says where.

use actix_web::http::header::{HeaderValue, LINK};
use actix_web::{HttpRequest, HttpResponse};
use leadr_auth_domain::{AccountId, KeyId, Timestamp};
use leadr_auth_service::Service;
use leadr_auth_service::listing::{Direction, Page, Period, Sort};
use serde::Serialize;
use serde_json::Value;
use utoipa::ToSchema;
use uuid::Uuid;

use crate::error::ApiError;
use crate::fields::{Fields, Wrong, control_free, number, string, timestamp};

/// The most rows that somebody can ask for.
pub(crate) const MAX_LIMIT: u32 = 100;

/// How many rows there are at most where nobody says how many.
pub(crate) const UNASKED_LIMIT: u32 = 1_000;

/// The order of a list; what is the same otherwise goes by its id.
#[derive(ToSchema)]
#[schema(as = Sort)]
#[expect(dead_code, reason = "it describes the query")]
pub(crate) enum WireSort {
    /// The oldest first.
    #[schema(rename = "created_at")]
    Oldest,
    /// The newest first.
    #[schema(rename = "-created_at")]
    Newest,
    /// By name, in the order of Unicode's code points.
    #[schema(rename = "name")]
    Name,
    /// The same backwards.
    #[schema(rename = "-name")]
    NameBackwards,
}

/// What is listed, by its id.
pub(crate) trait Listed: Copy + Ord {
    fn of(id: Uuid) -> Self;
    fn uuid(self) -> Uuid;
}

impl Listed for KeyId {
    fn of(id: Uuid) -> Self {
        Self::new(id)
    }

    fn uuid(self) -> Uuid {
        self.as_uuid()
    }
}

impl Listed for AccountId {
    fn of(id: Uuid) -> Self {
        Self::new(id)
    }

    fn uuid(self) -> Uuid {
        self.as_uuid()
    }
}

/// Which list a request is for: of what, whose, and all that narrows and sorts it. A cursor is good for one such list.
pub(crate) struct ListName {
    path: &'static str,
    /// The parameters that the route knows, without the cursor.
    query: Vec<(String, String)>,
    /// All of it, but how long a page is.
    name: String,
}

impl ListName {
    /// The list that a request for `path` is about, of which the route knows these parameters. `owner` is whose records it has.
    pub(crate) fn of(
        request: &HttpRequest,
        path: &'static str,
        known: &[&str],
        owner: Option<Uuid>,
    ) -> Self {
        let mut query: Vec<(String, String)> =
            form_urlencoded::parse(request.query_string().as_bytes())
                .filter(|(name, _)| known.contains(&&**name))
                .map(|(name, value)| (name.into_owned(), value.into_owned()))
                .collect();
        query.sort();
        let owner = owner.map_or_else(|| "all".to_owned(), |owner| owner.to_string());
        let narrowed = query
            .iter()
            .filter(|(name, _)| name != "limit" && name != "account_id");
        let narrowed = form_urlencoded::Serializer::new(String::new())
            .extend_pairs(narrowed)
            .finish();
        Self {
            name: format!("{path} {owner} {narrowed}"),
            path,
            query,
        }
    }

    /// Reads a request's `cursor`, if it has one, into a place of this list.
    pub(crate) fn cursor<T>(
        &self,
        query: &mut Fields,
        service: &Service,
        place: impl Fn(&str) -> Option<T>,
    ) -> Option<T> {
        query.optional("cursor", |value| {
            let opened = service.open_cursor(&self.name, string(value)?);
            opened.and_then(|opened| place(&opened)).ok_or_else(|| {
                let msg = "Input should be the cursor of the page before, of this very list";
                Wrong::new("cursor", msg)
            })
        })
    }

    /// The cursor for a place.
    pub(crate) fn seal(&self, service: &Service, place: &str) -> String {
        service.seal_cursor(&self.name, place)
    }

    /// Where the page with this cursor is.
    pub(crate) fn link(&self, cursor: &str) -> Result<HeaderValue, ApiError> {
        let query = form_urlencoded::Serializer::new(String::new())
            .extend_pairs(&self.query)
            .append_pair("cursor", cursor)
            .finish();
        HeaderValue::try_from(format!("<{}?{query}>; rel=\"next\"", self.path))
            .map_err(ApiError::internal)
    }

    /// Answers a page as an array.
    pub(crate) fn answer<Row, Id: Listed, Shown: Serialize>(
        &self,
        service: &Service,
        page: &Page<Row, Sort<Id>>,
        show: impl Fn(&Row) -> Shown,
    ) -> Result<HttpResponse, ApiError> {
        let mut answer = HttpResponse::Ok();
        if let Some(place) = page.next.as_ref().and_then(place_text) {
            let cursor = self.seal(service, &place);
            answer.insert_header((LINK, self.link(&cursor)?));
        }
        Ok(answer.json(page.rows.iter().map(show).collect::<Vec<_>>()))
    }
}

/// How many rows, in which order and from where on.
pub(crate) fn paging<Id: Listed>(
    query: &mut Fields,
    list: &ListName,
    service: &Service,
) -> (Sort<Id>, u32) {
    let limit = query.optional("limit", number(1, MAX_LIMIT));
    let sort = query.optional("sort", sort).unwrap_or(Sort::NEWEST_FIRST);
    let resumed = list.cursor(query, service, |place| resumed(&sort, place));
    (resumed.unwrap_or(sort), limit.unwrap_or(UNASKED_LIMIT))
}

fn sort<Id: Copy + Ord>(value: &Value) -> Result<Sort<Id>, Wrong> {
    let text = string(value)?;
    let (direction, column) = match text.strip_prefix('-') {
        Some(column) => (Direction::Descending, column),
        None => (Direction::Ascending, text),
    };
    let after = None;
    match column {
        "created_at" => Ok(Sort::CreatedAt { direction, after }),
        "name" => Ok(Sort::Name {
            direction,
            after: None,
        }),
        _ => Err(Wrong::new(
            "enum",
            "Input should be 'created_at', '-created_at', 'name' or '-name'",
        )),
    }
}

/// The place of a page's beginning, as text; `None` where it begins at the first row.
fn place_text<Id: Listed>(sort: &Sort<Id>) -> Option<String> {
    match sort {
        Sort::CreatedAt { after, .. } => {
            after.map(|(at, id)| format!("{}{}", id.uuid().simple(), at.unix_micros()))
        }
        Sort::Name { after, .. } => after
            .as_ref()
            .map(|(name, id)| format!("{}{name}", id.uuid().simple())),
    }
}

/// The list's order, from a place on.
fn resumed<Id: Listed>(sort: &Sort<Id>, place: &str) -> Option<Sort<Id>> {
    let (id, value) = place.split_at_checked(uuid::fmt::Simple::LENGTH)?;
    let id = Id::of(Uuid::try_parse(id).ok()?);
    let (at, name) = match sort {
        Sort::CreatedAt { .. } => (Timestamp::from_unix_micros(value.parse().ok()?)?, ""),
        Sort::Name { .. } => (Timestamp::MIN, value),
    };
    Some(sort.after(at, name, id))
}

/// The time that two parameters name, `…_after` and `…_before`.
pub(crate) fn period(query: &mut Fields, after: &str, before: &str) -> Period {
    Period {
        since: query.optional(after, timestamp),
        until: query.optional(before, timestamp),
    }
}

/// A part of a name.
pub(crate) fn part_of_name(value: &Value) -> Result<String, Wrong> {
    let part = control_free(value)?;
    if part.is_empty() || part.chars().count() > MAX_PART {
        let msg = format!("String should have 1 to {MAX_PART} characters");
        return Err(Wrong::new("string_length", msg));
    }
    Ok(part.to_owned())
}

/// The most characters of a part of a name: as many as the longest name has.
pub(crate) const MAX_PART: usize = 255;
