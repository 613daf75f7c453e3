-- `http-request lua.forward_auth <url>`: asks leadr-auth about the request. If it may pass, the variable txn.leadr_auth is
-- `let-in` afterwards; if it is refused, it ends here. Otherwise nothing has happened, which haproxy.cfg has to take for a no.

local KEYS = { "leadr-api-key", "x-api-key", "authorization" }
local IDENTITY = { "x-leadr-account-id", "x-leadr-key-id", "x-leadr-key-name", "x-leadr-scopes" }
local REFUSAL = { "content-type", "www-authenticate", "cache-control" }
-- Longer than what haproxy.cfg waits for leadr-auth, twice.
local TIMEOUT_MS = 5000

-- HAProxy's tables of headers: a list of values for each name, which counts from 0 in a request and from 1 in an answer.
local function values(headers, name)
    local list = {}
    for at = 0, 64 do
        local value = headers[name] and headers[name][at]
        if value ~= nil then
            list[#list + 1] = value
        end
    end
    return list
end

local function forward_auth(txn, url)
    local asked = txn.http:req_get_headers()
    local headers = {}
    for _, name in ipairs(KEYS) do
        local list = values(asked, name)
        if #list > 0 then
            headers[name] = list
        end
    end

    local answer = core.httpclient():get { url = url, headers = headers, timeout = TIMEOUT_MS }
    local status = answer and answer.status
    if status == 200 then
        for _, name in ipairs(IDENTITY) do
            txn.http:req_set_header(name, values(answer.headers, name)[1] or "")
        end
        txn:set_var("txn.leadr_auth", "let-in")
    elseif status == 401 or status == 403 then
        local reply = txn:reply { status = status, body = answer.body }
        for _, name in ipairs(REFUSAL) do
            for _, value in ipairs(values(answer.headers, name)) do
                reply:add_header(name, value)
            end
        end
        txn:done(reply)
    end
end

core.register_action("forward_auth", { "http-req" }, forward_auth, 1)
