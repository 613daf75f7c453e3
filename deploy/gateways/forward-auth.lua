-- `http-request lua.forward_auth <url>`: asks leadr-auth whether the request may pass, and refuses it otherwise.
-- For HAProxy 2.6 and newer, which has a client for HTTP in Lua.

local KEYS = { "leadr-api-key", "x-api-key", "authorization" }
local IDENTITY = { "x-leadr-account-id", "x-leadr-key-id", "x-leadr-key-name", "x-leadr-scopes" }
local REFUSAL = { "content-type", "www-authenticate", "retry-after" }
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

local function refuse(txn, status, headers, body)
    local reply = txn:reply { status = status, body = body }
    for name, list in pairs(headers) do
        for _, value in ipairs(list) do
            reply:add_header(name, value)
        end
    end
    reply:add_header("cache-control", "no-store")
    txn:done(reply)
end

local function unavailable(txn)
    refuse(txn, 503, { ["content-type"] = { "application/json" }, ["retry-after"] = { "1" } },
        '{"detail":"Service unavailable","code":"service_unavailable"}')
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
    elseif status == 401 or status == 403 then
        local kept = {}
        for _, name in ipairs(REFUSAL) do
            kept[name] = values(answer.headers, name)
        end
        refuse(txn, status, kept, answer.body)
    else
        unavailable(txn)
    end
end

core.register_action("forward_auth", { "http-req" }, forward_auth, 1)
