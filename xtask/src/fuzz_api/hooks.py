"""What schemathesis has to know of this service beyond its OpenAPI document. Used by `cargo xtask fuzz-api`."""

import os
import re
import uuid
from urllib.parse import parse_qsl, urlsplit

import schemathesis
from schemathesis.core.failures import AcceptedNegativeData
from schemathesis.openapi.checks import RejectedPositiveData

ROLE = os.environ["LEADR_FUZZ_ROLE"]
# The key that requests are sent with, and another one of its account.
OWN_KEY = os.environ.get("LEADR_FUZZ_OWN_KEY_ID")
SPARE_KEY = os.environ.get("LEADR_FUZZ_SPARE_KEY_ID")

ENTITY_TAGS = re.compile(r'\*|(W/)?"[^"]*"(\s*,\s*(W/)?"[^"]*")*')
# The last `ETag` of each record, by its path.
TAGS = {}
# Of each list: the query of the next page, from the last `Link` that it answered.
NEXT_PAGES = {}


@schemathesis.hook
def before_load_schema(context, raw_schema):
    if ROLE == "operator":
        require_account(raw_schema)


@schemathesis.hook
def before_call(context, case, kwargs):
    keep_own_key(case)
    follow_cursor(case)
    mend_if_match(case)


@schemathesis.hook
def after_call(context, case, response):
    tag = response.headers.get("etag")
    if tag and case.path_parameters:
        TAGS[case.formatted_path] = tag[0]
    link = re.fullmatch(r'<(.+)>; rel="next"', response.headers.get("link", [""])[0])
    if link:
        NEXT_PAGES[case.path] = dict(parse_qsl(urlsplit(link[1]).query, keep_blank_values=True))


@schemathesis.hook
def filter_failure(context, failure, case, response):
    if isinstance(failure, AcceptedNegativeData):
        return not is_short_without_blanks(case.body)
    if isinstance(failure, RejectedPositiveData):
        return not is_only_out_of_range(response)
    return True


def is_short_without_blanks(body):
    """Is it a name that is too long, but for blanks at its ends?

    The service takes these away before it measures a name; in the document the greatest length is that of the text as it was
    sent, as generators of clients expect it, and a bit less than is accepted.
    """
    name = body.get("name") if isinstance(body, dict) else None
    return isinstance(name, str) and len(name) > 100 and len(name.strip()) < len(name)


def is_only_out_of_range(response):
    """Is all that is wrong a time before the year 1 or after 9999, in UTC?

    `date-time` has such times, as `0001-01-01T00:00:00+01:00`, and no word of a schema leaves them out.
    """
    detail = response.json()["detail"] if response.status_code == 422 else None
    return bool(detail) and all(fault["type"] == "datetime_out_of_range" for fault in detail)


def require_account(document):
    """Puts into the document what it has in words only: a tenant may leave `account_id` out, an operator may not."""
    parameters = document["paths"]["/v1/api-keys"]["get"]["parameters"]
    [parameter] = [parameter for parameter in parameters if parameter["name"] == "account_id"]
    parameter["required"] = True
    body = document["components"]["schemas"]["CreateAPIKeyRequest"]
    body["required"].append("account_id")
    body["properties"]["account_id"]["type"] = "string"


def keep_own_key(case):
    """Has changes of the key that requests are sent with be made to another one of its account.

    The service does what it is told: it revokes, deletes or narrows that key, and then every later request is a 401 or a 403,
    whatever is wrong behind that.
    """
    key_id = (case.path_parameters or {}).get("key_id")
    if OWN_KEY and case.method == "PATCH" and is_same_id(key_id, OWN_KEY):
        case.path_parameters["key_id"] = SPARE_KEY


def is_same_id(one, other):
    try:
        return uuid.UUID(str(one)) == uuid.UUID(other)
    except ValueError:
        return False


def follow_cursor(case):
    """Sends no made-up cursor, but where a cursor is what is wrong with the request.

    A cursor is sealed, for one list and one caller. No schema tells one that the service gave from any other text, so that every
    generated one is refused with 422, and hides whatever else is in the request. A well-formed request asks for the next page of
    the list instead, if it has been said where that is.
    """
    query = case.query or {}
    if "cursor" not in query or is_wrong(case, "cursor"):
        return
    if case.meta and case.meta.generation.mode.is_negative:
        del query["cursor"]
        return
    next_page = NEXT_PAGES.pop(case.path, None)
    if next_page:
        query.clear()
        query.update(next_page)
    else:
        del query["cursor"]


def mend_if_match(case):
    """Sends a tag, but where the tag is what is wrong with the request.

    For this header the coverage phase has values of its own, such as `0`, which do not match the document's pattern, and hide
    whatever else is in the request. The record's own tag is a better one, if it is known.
    """
    value = (case.headers or {}).get("If-Match")
    if value is not None and not is_wrong(case, "If-Match") and not ENTITY_TAGS.fullmatch(str(value)):
        case.headers["If-Match"] = TAGS.get(case.formatted_path, "*")


def is_wrong(case, parameter):
    """Is it this parameter that does not fit the document, on purpose?"""
    if case.meta is None or not case.meta.generation.mode.is_negative:
        return False
    data = case.meta.phase.data
    wrong = {mutation.parameter for mutation in getattr(data, "mutations", ())}
    return parameter in wrong | {getattr(data, "parameter", None)}
