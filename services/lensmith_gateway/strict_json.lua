-- Refuses REST requests that the gRPC-JSON transcoder would bend in silence: it drops unknown fields of a body, accepts
-- several spellings that are not JSON, and lets a query parameter replace what the path says. Runs before the transcoder,
-- in each Envoy worker.
--
-- Generated in front of this text:
--   ROUTES    list of {method, Lua pattern of the path, fields bound by the path -> true, type of the body or false}
--   MESSAGES  type -> {JSON or proto field name -> type of the value, or false where anything goes}
--   ENUMS     type -> {value name -> true}
-- A type is "lensmith.v1.X", "map:<type of the values>" or "enum:<type>".

local find, byte, sub, format = string.find, string.byte, string.sub, string.format
-- The transcoder's own parser stops at about a hundred.
local MAX_DEPTH = 64
-- Far more than the largest batch has. Each value costs the transcoder and the service much more than its bytes.
local MAX_VALUES = 4000000
local LARGE_BODY = 4 * 1024 * 1024
local LITERALS = {[116] = "true", [102] = "false", [110] = "null"}

local fault
local values = 0
-- Where in the body the parser is: field names and places in lists, one for each level.
local trail = {}

-- The place in the words of an error: `inputs[1].image.url`.
local function place(depth)
  local text = ""
  for level = 1, depth do
    local step = trail[level]
    if type(step) == "number" then
      text = text .. "[" .. step .. "]"
    else
      text = text == "" and step or text .. "." .. step
    end
  end
  return text
end

local function refuse(reason, text, field)
  fault = fault or {reason = reason, text = text, field = field}
  return nil
end

local function malformed(position, expected)
  return refuse("JSON_MALFORMED", format("The body is not valid JSON: expected %s at byte %d.", expected, position))
end

-- What follows works on single bytes where it can: a body may hold millions of values, and patterns are slow.

-- Position of the next character that is not white space.
local function blank(text, position)
  local mark = byte(text, position)
  while mark == 32 or mark == 10 or mark == 13 or mark == 9 do
    position = position + 1
    mark = byte(text, position)
  end
  return position
end

-- Position after the string that begins at `position`.
local function skip_string(text, position)
  local from = position + 1
  while true do
    local quote = find(text, '"', from, true)
    if not quote then return malformed(#text + 1, "the end of a string") end
    local back = quote - 1
    while back > position and byte(text, back) == 92 do back = back - 1 end
    if (quote - 1 - back) % 2 == 0 then return quote + 1 end
    from = quote + 1
  end
end

-- Position after the number or literal that begins at `position`; whether the number is a good one says the transcoder.
local function skip_plain(text, position)
  local word = LITERALS[byte(text, position)]
  if word then
    if sub(text, position, position + #word - 1) == word then return position + #word end
    return malformed(position, "a value")
  end
  local at = position
  local mark = byte(text, at)
  -- Digits, sign, point, exponent.
  while mark and (mark >= 48 and mark <= 57 or mark == 45 or mark == 43 or mark == 46 or mark == 101 or mark == 69) do
    at = at + 1
    mark = byte(text, at)
  end
  if at == position then return malformed(position, "a value") end
  return at
end

local function child_type(kind, key)
  if not kind then return false end
  if sub(kind, 1, 4) == "map:" then return sub(kind, 5) ~= "" and sub(kind, 5) end
  return MESSAGES[kind][key]
end

local value

local function object(text, position, kind, depth)
  local at = blank(text, position + 1)
  if byte(text, at) == 125 then return at + 1 end
  while true do
    if byte(text, at) ~= 34 then return malformed(at, "a field name in double quotes") end
    local after = skip_string(text, at)
    if not after then return nil end
    local inner = false
    if kind then
      local key = sub(text, at + 1, after - 2)
      trail[depth] = key
      inner = child_type(kind, key)
      if inner == nil then
        local field = place(depth)
        return refuse("UNKNOWN_FIELD", format("The body has a field that this call does not know: %s.", field), field)
      end
    end
    at = blank(text, after)
    if byte(text, at) ~= 58 then return malformed(at, "a colon") end
    at = value(text, blank(text, at + 1), inner, depth)
    if not at then return nil end
    at = blank(text, at)
    local mark = byte(text, at)
    if mark == 125 then return at + 1 end
    if mark ~= 44 then return malformed(at, "a comma or a closing brace") end
    at = blank(text, at + 1)
  end
end

local function array(text, position, kind, depth)
  local at, index = blank(text, position + 1), 0
  if byte(text, at) == 93 then return at + 1 end
  while true do
    trail[depth] = index
    at = value(text, at, kind, depth)
    if not at then return nil end
    at = blank(text, at)
    local mark = byte(text, at)
    if mark == 93 then return at + 1 end
    if mark ~= 44 then return malformed(at, "a comma or a closing bracket") end
    at, index = blank(text, at + 1), index + 1
  end
end

local function string_value(text, position, kind, depth)
  local after = skip_string(text, position)
  if after and kind and sub(kind, 1, 5) == "enum:" then
    local name = sub(text, position + 1, after - 2)
    if not ENUMS[sub(kind, 6)][name] and not find(name, "^%-?%d+$") then
      local field = place(depth)
      return refuse("UNKNOWN_ENUM_VALUE", format("%s does not have the value %s.", field, name), field)
    end
  end
  return after
end

-- Position after the value that begins at `position`; nil when it is refused.
value = function(text, position, kind, depth)
  values = values + 1
  if values > MAX_VALUES then
    return refuse("JSON_TOO_MANY_VALUES", format("The body has more than %d values.", MAX_VALUES))
  end
  local mark = byte(text, position)
  if mark == 34 then return string_value(text, position, kind, depth) end
  if mark ~= 123 and mark ~= 91 then return skip_plain(text, position) end
  if depth == MAX_DEPTH then
    return refuse("JSON_TOO_DEEP", format("The body nests deeper than %d levels.", MAX_DEPTH))
  end
  if mark == 91 then return array(text, position, kind, depth + 1) end
  return object(text, position, kind and sub(kind, 1, 5) ~= "enum:" and kind, depth + 1)
end

local function check(text, kind)
  values = 0
  local start = blank(text, 1)
  if byte(text, start) ~= 123 then return malformed(start, "an object") end
  local stop = value(text, start, kind, 0)
  if stop and blank(text, stop) <= #text then return malformed(blank(text, stop), "the end of the body") end
end

local function quoted(text)
  -- Field names come from the body as they stand there: cut to a sane length, printable ASCII only, escaped once.
  return '"' .. sub(text, 1, 300):gsub("[^\32-\126]", "?"):gsub("[\\\"]", "\\%0") .. '"'
end

local function find_route(method, path)
  for _, route in ipairs(ROUTES) do
    if route[1] == method and find(path, route[2]) then return route end
  end
end

local function check_query(query, bound)
  for pair in string.gmatch(query, "[^&]+") do
    local name = string.match(pair, "^[^=]*"):gsub("%%(%x%x)", function(hex) return string.char(tonumber(hex, 16)) end)
    if bound[name] then
      return refuse("FIELD_BOUND_BY_PATH", format("%s stands in the path and cannot be a query parameter.", name), name)
    end
  end
end

local function check_body(handle, kind)
  local body = handle:body()
  -- No body is an empty message; which fields are missing is said by the service.
  if not body or body:length() == 0 then return end
  check(body:getBytes(0, body:length()), kind)
  -- A copy of a large body must not wait for the collector's next round.
  if body:length() > LARGE_BODY then collectgarbage() end
end

function envoy_on_request(handle)
  local headers = handle:headers()
  if find(headers:get("content-type") or "", "^application/grpc") then return end
  local path, query = string.match(headers:get(":path") or "", "^([^?]*)%??(.*)$")
  local route = find_route(headers:get(":method"), path)
  -- The transcoder takes more than it says (a slash at the end, an empty id): what is not listed here ends here.
  if not route then return handle:respond({[":status"] = "404"}, "") end
  fault = nil
  check_query(query, route[3])
  if not fault and route[4] then check_body(handle, route[4]) end
  if not fault then return end
  local violation = ""
  if fault.field then
    violation = format(
      ',{"@type":"type.googleapis.com/google.rpc.BadRequest","fieldViolations":[{"field":%s,"description":%s}]}',
      quoted(fault.field), quoted(fault.text))
  end
  handle:streamInfo():dynamicMetadata():set("lensmith", "json_fault", true)
  handle:respond({[":status"] = "400"}, format(
    '{"code":3,"message":%s,"details":[{"@type":"type.googleapis.com/google.rpc.ErrorInfo","reason":"%s",'
      .. '"domain":"lensmith","metadata":{}}%s]}',
    quoted(fault.text), fault.reason, violation))
end
