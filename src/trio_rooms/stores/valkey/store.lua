-- What of a store has to be done in one step, as functions of the server.
--
-- Every key begins with "{PREFIX}:", the first argument of each function. Of room KEY:
--
--   r:KEY   hash: n, x, e number, nonce, epoch of the last commit; s, b, f seq, before, floor; z bytes of the
--           journal's bodies; l when it lapses; G, g generations of the snapshots, newest first, h which of d0
--           and d1 has the newest; o, k who has claimed it and the epoch of that; u its sessions have the
--           connections of somebody before; 1 it is in `keys`
--   d0:, d1:KEY  documents
--   v:, w:KEY    hash of its storage, and zset of the names for their order
--   j:KEY        list, its journal: "SEQ:LENGTH OF THE BODY:..."
--   s:KEY        hash, three fields for each session: "o" SID "SEQ BEHIND THE START:WINDOW:...", "r" SID
--                "LAST ID:...", "c" SID "aPOS:LINK:UNTIL:..." (a: has a connection, w: away, e: over)
--   i:, z:, a:KEY  its sessions: zset of all, zset of those that are over, set of those with a connection
--   p:KEY        hash: how many that are away stand at a seq
--   y:KEY        zset of verdicts: SID ID CONTENT
--   t:, tn:, td:KEY  hash of timers "DUE:...", zset of their names, zset by due
--
-- Of all: `keys` zset of rooms that there are; `ended` zset of those of which only a number is left, by when;
-- `due` zset: "1" SID KEY, "2" LENGTH OF THE KEY ":" KEY NAME, or "3" KEY; at:OWNER set of rooms with sessions in a:,
-- of whoever has claimed them, "" where nobody claims; `dead` zset of owners who are no more, by when; `nodes` zset of
-- those who are, by the end of their leases, `about` and `leases` hashes of theirs; `opened` counts openings, and
-- `alone` ascends with those of who is alone.
--
-- Of user USER: m:USER hash: "m" ID "POSITION:LENGTH OF THE BODY:EXPIRES:...", "o" ID her message's offer, "b" bytes;
-- q:USER zset of ids by position. Of all users: `users` zset of those who have a message; `expiry` zset, POSITION ID
-- USER by when; `posted` the last position.
--
-- SID, ID, POSITION in members and fields are 8 bytes, big endian. Whole numbers may have more digits than Lua can
-- count, so they are compared as text, and never calculated with.

local call

local function less(a, b)
  if #a ~= #b then return #a < #b end
  return a < b
end

-- Whether one text comes before another, byte by byte: that of Lua goes by the language.
local function precedes(a, b)
  local least = math.min(#a, #b)
  for i = 1, least do
    local one, other = a:byte(i), b:byte(i)
    if one ~= other then return one < other end
  end
  return #a < #b
end

local function each(items, count, act)
  for first = 1, #items, count do
    act(unpack(items, first, math.min(first + count - 1, #items)))
  end
end

-- How many members of a zset come before what has a score, and in it a member, which need not be there.
local function rank(set, score, member)
  local low = call('ZCOUNT', set, '-inf', '(' .. score)
  if member == '' then return low end
  local high = low + call('ZCOUNT', set, score, score)
  while low < high do
    local middle = math.floor((low + high) / 2)
    if precedes(call('ZRANGE', set, middle, middle)[1], member) then low = middle + 1 else high = middle end
  end
  return low
end

local function page(set, now, limit, score, member, behind)
  if score == '' then return call('ZRANGE', set, '-inf', now, 'BYSCORE', 'LIMIT', 0, limit, 'WITHSCORES') end
  local first
  if behind == '1' then
    first = call('ZCOUNT', set, '-inf', score)
  else
    first = rank(set, score, member)
  end
  local found = call('ZRANGE', set, first, first + limit - 1, 'WITHSCORES')
  local last = now == 'inf' and math.huge or tonumber(now)
  while #found > 0 and tonumber(found[#found]) > last do
    found[#found] = nil
    found[#found] = nil
  end
  return found
end

-- Sessions.

-- Take a session out of where its connection's half has put it.
local function unplace(P, key, owner, sid, half)
  local state, pos = half:sub(1, 1), half:match('^.(%d+)')
  if state == 'a' then
    local a = P .. 'a:' .. key
    call('SREM', a, sid)
    if call('EXISTS', a) == 0 then call('SREM', P .. 'at:' .. owner, key) end
  elseif state == 'e' then
    call('ZREM', P .. 'z:' .. key, sid)
  else
    call('ZREM', P .. 'due', '1' .. sid .. key)
    if pos ~= '0' and call('HINCRBY', P .. 'p:' .. key, pos, -1) == 0 then call('HDEL', P .. 'p:' .. key, pos) end
  end
end

local function place(P, key, owner, sid, half)
  local state, pos, until_ = half:match('^(.)(%d+):%d+:([^:]*)')
  if state == 'a' then
    call('SADD', P .. 'a:' .. key, sid)
    call('SADD', P .. 'at:' .. owner, key)
  elseif state == 'e' then
    call('ZADD', P .. 'z:' .. key, 0, sid)
  else
    call('ZADD', P .. 'due', until_, '1' .. sid .. key)
    if pos ~= '0' then call('HINCRBY', P .. 'p:' .. key, pos, 1) end
  end
end

-- Whose connections have gone, so many at most: each is away from `now` on. Whether there are more.
local function give_up(P, key, now, limit)
  local s = P .. 's:' .. key
  local sids = call('SPOP', P .. 'a:' .. key, limit)
  for _, sid in ipairs(sids) do
    local found = call('HMGET', s, 'o' .. sid, 'c' .. sid)
    local first, window = found[1]:match('^(%d+):([^:]*)')
    local pos, rest = '0', ''
    if found[2] then pos, rest = found[2]:match('^.(%d+):%d+:[^:]*:(.*)$') end
    if less(pos, first) then pos = first end
    local half = ('w%s:0:%.17g:%s'):format(pos, tonumber(now) + tonumber(window), '') .. rest
    call('HSET', s, 'c' .. sid, half)
    place(P, key, '', sid, half)
  end
  return call('EXISTS', P .. 'a:' .. key) == 1
end

local function drop_session(P, key, owner, sid, above)
  local s = P .. 's:' .. key
  local found = call('HMGET', s, 'o' .. sid, 'c' .. sid)
  if not found[1] then return end
  unplace(P, key, owner, sid, found[2] or 'a0')
  call('HDEL', s, 'o' .. sid, 'r' .. sid, 'c' .. sid)
  call('ZREM', P .. 'i:' .. key, sid)
  call('ZREMRANGEBYLEX', P .. 'y:' .. key, '[' .. sid, '(' .. above)
end

-- Inboxes.

local function post(P, A, i, count)
  local users = {}
  for _ = 1, count do
    local user, id, size, expires, rest = A[i], A[i + 1], A[i + 2], A[i + 3], A[i + 4]
    i = i + 5
    local m = P .. 'm:' .. user
    if call('HEXISTS', m, 'm' .. id) == 0 then
      local position = call('INCR', P .. 'posted')
      local text = ('%.0f'):format(position)
      call('HSET', m, 'm' .. id, text .. ':' .. size .. ':' .. expires .. ':' .. rest)
      call('HINCRBY', m, 'b', size + 50)
      local q = P .. 'q:' .. user
      call('ZADD', q, text, id)
      if call('ZCARD', q) == 1 then call('ZADD', P .. 'users', 0, user) end
      local place = struct.pack('>I4I4', math.floor(position / 4294967296), position % 4294967296)
      call('ZADD', P .. 'expiry', expires, place .. id .. user)
    end
    users[user] = true
  end
  return i, users
end

local function size_of(P, user)
  return call('ZCARD', P .. 'q:' .. user), tonumber(call('HGET', P .. 'm:' .. user, 'b') or 0)
end

-- The commit. Its arguments: 1 prefix, 2 key, 3 which counter says who may write, 4 what it has to be, 5 epoch,
-- 6 number, 7 the one before, 8 nonce, 9 seq or 0, 10 the first seq or 0, 11 "1" to destroy, 12 "1" with a document,
-- 13 that, 14 when it lapses, 0 for never, or "", 15 a letter for each section that follows.

-- Whether somebody else may write by now. Of nodes that were not alone nobody may, once somebody was. Where a server
-- knows of less than they do, it has lost what it had, and nobody was.
local function fenced(P, counter, count)
  local found = call('GET', P .. counter) or '0'
  if found ~= count and not (counter == 'alone' and less(found, count)) then return {'opened', found} end
end

local function refused(A, row)
  local why = fenced(A[1], A[3], A[4])
  if why then return why end
  if A[3] == 'alone' and not (row.owner and row.claim == A[5]) then return {'claimed', row.claim or '0'} end
  local number = row.number or '0'
  if number ~= A[7] then
    if number ~= A[6] then return {'number', number} end
    if row.nonce ~= A[8] then return {'nonce', number} end
    return {'same'}
  end
  local seq = row.seq or '0'
  if A[9] ~= '0' and (less(A[9], seq) or (A[10] ~= '0' and not less(seq, A[10]))) then return {'seq', seq} end
end

local function destroy(P, key, owner)
  local due, gone = P .. 'due', {}
  for _, sid in ipairs(call('ZRANGE', P .. 'i:' .. key, 0, -1)) do gone[#gone + 1] = '1' .. sid .. key end
  for _, name in ipairs(call('ZRANGE', P .. 'td:' .. key, 0, -1)) do
    gone[#gone + 1] = '2' .. #key .. ':' .. key .. name
  end
  each(gone, 1000, function(...) call('ZREM', due, ...) end)
  call('SREM', P .. 'at:' .. owner, key)
  local owned = {}
  for _, kind in ipairs({'d0:', 'd1:', 'v:', 'w:', 'j:', 's:', 'i:', 'z:', 'a:', 'p:', 'y:', 't:', 'tn:', 'td:'}) do
    owned[#owned + 1] = P .. kind .. key
  end
  call('UNLINK', unpack(owned))
end

local write = {}

-- Values of the storage: how many, then name, "1" or "" to delete it, value.
function write.v(A, i, row)
  local P, key = A[1], A[2]
  local v, w = P .. 'v:' .. key, P .. 'w:' .. key
  for _ = 1, tonumber(A[i]) do
    local name = A[i + 1]
    if A[i + 2] == '' then
      if call('HDEL', v, name) == 1 then call('ZREM', w, name) end
    elseif call('HSET', v, name, A[i + 3]) == 1 then
      call('ZADD', w, 0, name)
    end
    i = i + 3
  end
  return i + 1
end

-- The journal: before, floor, what to trim or 0, how many entries, the entries.
function write.j(A, i, row)
  local P, key = A[1], A[2]
  local j, added, trim, count = P .. 'j:' .. key, 0, A[i + 2], tonumber(A[i + 3])
  if A[9] ~= '0' then row:put('s', A[9], 'b', A[i], 'f', A[i + 1]) end
  i = i + 4
  if count > 0 then
    local entries = {}
    for n = 1, count do
      entries[n] = A[i + n - 1]
      added = added + tonumber(entries[n]:match('^%d+:(%d+)'))
    end
    each(entries, 1000, function(...) call('RPUSH', j, ...) end)
  end
  local most = 4 -- A few at first, since mostly a few go.
  while trim ~= '0' do
    local gone, first = 0, call('LRANGE', j, 0, most - 1)
    for _, entry in ipairs(first) do
      local seq, size = entry:match('^(%d+):(%d+)')
      if less(trim, seq) then break end
      gone, added = gone + 1, added - tonumber(size)
    end
    if gone > 0 then call('LPOP', j, gone) end
    if gone < most then break end
    most = math.min(most * 4, 256)
  end
  if added ~= 0 then row:put('z', ('%.0f'):format(tonumber(row.size or 0) + added)) end
  return i + count
end

-- Room's halves: how many, then sid, the sid above to delete it or "", last id, the rest, opening or "".
function write.r(A, i, row)
  local P, key = A[1], A[2]
  local s = P .. 's:' .. key
  for _ = 1, tonumber(A[i]) do
    local sid, above, last, rest, opening = A[i + 1], A[i + 2], A[i + 3], A[i + 4], A[i + 5]
    i = i + 5
    if above ~= '' then
      drop_session(P, key, row.owner, sid, above)
    else
      local found = call('HMGET', s, 'o' .. sid, 'r' .. sid)
      if found[1] or opening ~= '' then
        if found[2] then
          local before = found[2]:match('^%d+')
          if less(last, before) then last = before end
        end
        call('HSET', s, 'r' .. sid, last .. ':' .. rest)
        if opening ~= '' then call('HSET', s, 'o' .. sid, opening) end
        if not found[1] then
          call('ZADD', P .. 'i:' .. key, 0, sid)
          place(P, key, row.owner, sid, 'a0:0:')
        end
      end
    end
  end
  return i + 1
end

-- Connections' halves: how many, then sid, half.
function write.c(A, i, row)
  local P, key = A[1], A[2]
  local s = P .. 's:' .. key
  for _ = 1, tonumber(A[i]) do
    local sid, half = A[i + 1], A[i + 2]
    i = i + 2
    local found = call('HMGET', s, 'o' .. sid, 'c' .. sid)
    if found[1] then
      unplace(P, key, row.owner, sid, found[2] or 'a0')
      call('HSET', s, 'c' .. sid, half)
      place(P, key, row.owner, sid, half)
    end
  end
  return i + 1
end

-- Verdicts: how many go, then from and above which; how many come, then sid, sid and id, those above, content.
function write.y(A, i, row)
  local P, key = A[1], A[2]
  local s, y = P .. 's:' .. key, P .. 'y:' .. key
  for _ = 1, tonumber(A[i]) do
    call('ZREMRANGEBYLEX', y, '[' .. A[i + 1], '(' .. A[i + 2])
    i = i + 2
  end
  i = i + 1
  for _ = 1, tonumber(A[i]) do
    if call('HEXISTS', s, 'o' .. A[i + 1]) == 1 then
      call('ZREMRANGEBYLEX', y, '[' .. A[i + 2], '(' .. A[i + 3])
      call('ZADD', y, 0, A[i + 2] .. A[i + 4])
    end
    i = i + 4
  end
  return i + 1
end

-- Timers: how many, then name, "1" or "" to delete it, due or "", content.
function write.t(A, i, row)
  local P, key = A[1], A[2]
  local t, tn, td, due = P .. 't:' .. key, P .. 'tn:' .. key, P .. 'td:' .. key, P .. 'due'
  for _ = 1, tonumber(A[i]) do
    local name, time = A[i + 1], A[i + 3]
    local member = '2' .. #key .. ':' .. key .. name
    if A[i + 2] == '' then
      if call('HDEL', t, name) == 1 then call('ZREM', tn, name) end
      time = ''
    elseif call('HSET', t, name, time .. ':' .. A[i + 4]) == 1 then
      call('ZADD', tn, 0, name)
    end
    if time ~= '' then
      call('ZADD', td, time, name)
      call('ZADD', due, time, member)
    elseif call('ZREM', td, name) == 1 then
      call('ZREM', due, member)
    end
    i = i + 4
  end
  return i + 1
end

-- Messages for users: how many, then each as in `post`.
function write.p(A, i, row)
  return (post(A[1], A, i + 1, tonumber(A[i])))
end

-- Offers: how many, then user, id, offer.
function write.f(A, i, row)
  for _ = 1, tonumber(A[i]) do
    local m = A[1] .. 'm:' .. A[i + 1]
    if call('HEXISTS', m, 'm' .. A[i + 2]) == 1 then call('HSET', m, 'o' .. A[i + 2], A[i + 3]) end
    i = i + 3
  end
  return i + 1
end

-- Note whether there is anything of a room, and when it lapses if so.
local function settle_room(A, row, there)
  local P, key, r = A[1], A[2], row.at
  if not there then
    local owned = {P .. 'v:' .. key, P .. 'j:' .. key, P .. 'i:' .. key, P .. 'tn:' .. key}
    there = A[11] ~= '1' and call('EXISTS', unpack(owned)) > 0
  end
  if not there then
    call('HDEL', r, 's', 'b', 'f', 'z', 'l', 'G', 'g', 'h', '1')
    call('ZREM', P .. 'due', '3' .. key)
    if row.known then call('ZREM', P .. 'keys', key) end
    local ended = P .. 'ended'
    call('ZADD', ended, call('INCR', P .. 'ends'), key)
    if call('ZCARD', ended) > 10000 then -- As many as MOST_ENDED of `checks.py`.
      local oldest = P .. 'r:' .. call('ZPOPMIN', ended)[1]
      local owner = call('HGET', oldest, 'o')
      if owner and call('ZSCORE', P .. 'nodes', owner) then
        call('HDEL', oldest, 'n', 'x', 'e') -- The claim stays.
      else
        call('DEL', oldest)
      end
    end
    return
  end
  if not row.known then
    call('HSET', r, '1', '1')
    call('ZADD', P .. 'keys', 0, key)
    call('ZREM', P .. 'ended', key)
  end
  if A[14] == '0' then
    call('HDEL', r, 'l')
    call('ZREM', P .. 'due', '3' .. key)
  elseif A[14] ~= '' then
    call('HSET', r, 'l', A[14])
    call('ZADD', P .. 'due', A[14], '3' .. key)
  end
end

-- Have fields of the room's hash written at the end, all at once.
local function put(row, ...)
  local fields = row.fields
  for n = 1, select('#', ...) do fields[#fields + 1] = select(n, ...) end
end

local function commit(_, A)
  call = redis.call
  local P, key = A[1], A[2]
  local r = P .. 'r:' .. key
  local found = call('HMGET', r, 'n', 'x', 's', 'o', 'k', 'u', '1', 'G', 'h', 'z')
  local row = {
    at = r, number = found[1], nonce = found[2], seq = found[3], owner = found[4], claim = found[5],
    known = found[7], size = found[10], put = put, fields = {'n', A[6], 'x', A[8], 'e', A[5]},
  }
  local why = refused(A, row)
  if why then return why end
  if found[6] then
    if give_up(P, key, call('TIME')[1], 100) then return {'repair'} end
    call('HDEL', r, 'u')
  end
  if A[3] == 'opened' then
    if row.owner then call('HDEL', r, 'o', 'k') end -- Who opens a store alone takes it from all.
    row.owner = ''
  end
  local newest = found[8]
  if A[11] == '1' then
    destroy(P, key, row.owner)
    newest = false
  elseif A[12] == '1' then
    local half = found[9] == '0' and '1' or '0'
    call('SET', P .. 'd' .. half .. ':' .. key, A[13])
    row:put('G', A[6], 'h', half)
    if newest then row:put('g', newest) end
    newest = A[6]
  end
  local i = 16
  for letter in A[15]:gmatch('.') do i = write[letter](A, i, row) end
  call('HSET', r, unpack(row.fields))
  if not newest or not row.known or A[14] ~= '' then settle_room(A, row, newest) end
  return 'OK'
end

register('commit', commit)
-- One that takes away and adds nothing makes room: it is carried out where there is none.
register('reduce', commit, {'allow-oom'})

-- Writing inboxes. Arguments: prefix, which counter says who may write, what it has to be, and then how many
-- messages and each of them; or the user, and ids.

register('post', function(_, A)
  call = redis.call
  local why = fenced(A[1], A[2], A[3])
  if why then return why end
  local _, users = post(A[1], A, 5, tonumber(A[4]))
  local sizes = {'OK'}
  for user in pairs(users) do
    local count, bytes = size_of(A[1], user)
    sizes[#sizes + 1] = user
    sizes[#sizes + 1] = count
    sizes[#sizes + 1] = bytes
  end
  return sizes
end)

register('settle', function(_, A)
  call = redis.call
  local why = fenced(A[1], A[2], A[3])
  if why then return why end
  local P, user = A[1], A[4]
  local m, q = P .. 'm:' .. user, P .. 'q:' .. user
  for i = 5, #A do
    local id = A[i]
    local found = call('HGET', m, 'm' .. id)
    if found then
      local position, size = found:match('^(%d+):(%d+)')
      local place = tonumber(position)
      call('HDEL', m, 'm' .. id, 'o' .. id)
      call('ZREM', q, id)
      call('HINCRBY', m, 'b', -50 - tonumber(size))
      call('ZREM', P .. 'expiry', struct.pack('>I4I4', math.floor(place / 4294967296), place % 4294967296) .. id .. user)
    end
  end
  if call('EXISTS', q) == 0 then
    call('DEL', m)
    call('ZREM', P .. 'users', user)
  end
  return {'OK'}
end, {'allow-oom'})

-- Opening.

register('open', function(_, A) -- Prefix, "1" to be alone.
  call = redis.call
  local P = A[1]
  if A[2] == '1' then
    local time = call('TIME')
    local now = time[1] + time[2] / 1e6
    local alive = call('ZRANGE', P .. 'nodes', ('(%.6f'):format(now), '+inf', 'BYSCORE')
    if #alive > 0 then return {'nodes', unpack(alive, 1, math.min(#alive, 10))} end
    for _, node in ipairs(call('ZRANGE', P .. 'nodes', 0, -1)) do call('ZADD', P .. 'dead', 0, node) end
    call('DEL', P .. 'nodes', P .. 'about', P .. 'leases')
    -- By the clock, so that it is another one although this server has lost what it had.
    local last = tonumber(call('GET', P .. 'alone') or 0)
    call('SET', P .. 'alone', ('%.0f'):format(math.max(last + 1, math.floor(now * 1000000))))
  end
  if call('EXISTS', P .. 'at:') == 1 then
    call('ZADD', P .. 'dead', 'NX', call('TIME')[1], '')
  end
  return {'OK', call('INCR', P .. 'opened'), call('GET', P .. 'alone') or '0'}
end, {'allow-oom'})

-- Forget what is left of rooms that have ended, so many at most; how many.
register('forget', function(_, A) -- Prefix, limit.
  call = redis.call
  local ended = call('ZPOPMIN', A[1] .. 'ended', A[2])
  for i = 1, #ended, 2 do call('DEL', A[1] .. 'r:' .. ended[i]) end
  return #ended / 2
end, {'allow-oom'})

-- Give up connections of sessions whose owner is no more, so many at most; whether there may be more.
register('orphans', function(_, A) -- Prefix, limit, seconds since the owner's end, now if all are to be taken.
  call = redis.call
  local P = A[1]
  local dead
  if A[4] ~= '' then
    dead = call('ZRANGE', P .. 'dead', 0, 0, 'WITHSCORES')
  else
    local latest = ('%.6f'):format(call('TIME')[1] - A[3])
    dead = call('ZRANGE', P .. 'dead', '-inf', latest, 'BYSCORE', 'LIMIT', 0, 1, 'WITHSCORES')
  end
  local owner, since = dead[1], A[4] ~= '' and A[4] or dead[2]
  if not owner then return 0 end
  local at = P .. 'at:' .. owner
  local key = call('SRANDMEMBER', at)
  if not key then
    call('ZREM', P .. 'dead', owner)
    return 1
  end
  local r = P .. 'r:' .. key
  local found = call('HMGET', r, 'o', 'u', 'n')
  if A[4] ~= '' or found[1] == owner and (call('EXISTS', P .. 'a:' .. key) == 1 or not found[3]) then
    call('HDEL', r, 'o', 'k')
    found[1] = false
  end
  -- Whoever has claimed it since, and has looked at it, has connections of its own there.
  if found[2] or not found[1] then
    if give_up(P, key, since, A[2]) then return 1 end
    call('HDEL', r, 'u')
  end
  call('SREM', at, key)
  return 1
end, {'allow-oom'})

-- Give up the connections that sessions of a room had with a former owner; whether there are more.
register('repair', function(_, A) -- Prefix, key, limit, now.
  call = redis.call
  local r = A[1] .. 'r:' .. A[2]
  if not call('HGET', r, 'u') then return 0 end
  if give_up(A[1], A[2], A[4], A[3]) then return 1 end
  call('HDEL', r, 'u')
  return 0
end, {'allow-oom'})

-- Reading.

local function reading(name, read)
  register(name, function(_, A)
    call = redis.call
    return read(A[1], A)
  end, {'no-writes'})
end

local function head(P, key)
  local found = call('HMGET', P .. 'r:' .. key, 'n', 'x', 'e', 's', 'b', 'f', 'z', 'l', 'u', 'G', 'g', 'h')
  for i = 1, 12 do found[i] = found[i] or '' end
  return found, {
    found[1], found[2], found[3], found[4], found[5], found[6], call('LLEN', P .. 'j:' .. key), found[7], found[8],
    call('EXISTS', P .. 'i:' .. key), call('EXISTS', P .. 'tn:' .. key),
  }
end

reading('head', function(P, A) -- Prefix, key.
  local found, result = head(P, A[2])
  if found[9] ~= '' then return {'repair'} end
  return result
end)

reading('load', function(P, A) -- Prefix, key, how many bytes documents may have, "1" for the newest alone.
  local key = A[2]
  local found, result = head(P, key)
  if found[9] ~= '' then return {'repair'} end
  local most = tonumber(A[3])
  local half = found[12]
  for _, generation in ipairs({found[10], found[11]}) do
    if generation ~= '' then
      local d = P .. 'd' .. half .. ':' .. key
      half = half == '0' and '1' or '0'
      most = most - call('STRLEN', d)
      result[#result + 1] = generation
      if most < 0 then
        result[#result + 1] = '-'
      else
        result[#result + 1] = '+' .. (call('GET', d) or '')
      end
    end
    if A[4] == '1' then break end
  end
  return result
end)

reading('document', function(P, A) -- Prefix, key, generation.
  local found = call('HMGET', P .. 'r:' .. A[2], 'G', 'g', 'h')
  local half = found[3]
  if A[3] == found[2] then
    half = half == '0' and '1' or '0'
  elseif A[3] ~= found[1] then
    return {}
  end
  return {call('GET', P .. 'd' .. half .. ':' .. A[2]) or ''}
end)

-- Pages: "1" where it was cut because it became too large, else "0", and what belongs to each found.

local function fill(found, most, act)
  local result, size = {'0'}, 0
  for n, one in ipairs(found) do
    size = size + act(result, one)
    if size >= most and n < #found then
      result[1] = '1'
      break
    end
  end
  return result
end

reading('names', function(P, A) -- Prefix, key, kind of zset, kind of hash, lower, upper, limit, most bytes.
  local hash = P .. A[4] .. A[2]
  local found = call('ZRANGE', P .. A[3] .. A[2], '[' .. A[5], '(' .. A[6], 'BYLEX', 'LIMIT', 0, A[7])
  return fill(found, tonumber(A[8]), function(result, name)
    local value = call('HGET', hash, name) or ''
    result[#result + 1] = name
    result[#result + 1] = value
    return #name + #value
  end)
end)

reading('sessions', function(P, A) -- Prefix, key, kind of zset, lower, limit, most bytes.
  local key = A[2]
  if call('HGET', P .. 'r:' .. key, 'u') then return {'repair'} end
  local s = P .. 's:' .. key
  local found = call('ZRANGE', P .. A[3] .. key, '[' .. A[4], '+', 'BYLEX', 'LIMIT', 0, A[5])
  return fill(found, tonumber(A[6]), function(result, sid)
    local parts, size = call('HMGET', s, 'o' .. sid, 'r' .. sid, 'c' .. sid), 0
    result[#result + 1] = sid
    for i = 1, 3 do
      result[#result + 1] = parts[i] or ''
      size = size + #(parts[i] or '')
    end
    return size
  end)
end)

reading('session', function(P, A) -- Prefix, key, sid.
  if call('HGET', P .. 'r:' .. A[2], 'u') then return {'repair'} end
  local sid = A[3]
  local found = call('HMGET', P .. 's:' .. A[2], 'o' .. sid, 'r' .. sid, 'c' .. sid)
  if not found[1] then return {} end
  return {found[1], found[2], found[3] or ''}
end)

reading('positions', function(P, A) -- Prefix, key.
  if call('HGET', P .. 'r:' .. A[2], 'u') then return {'repair'} end
  return call('HGETALL', P .. 'p:' .. A[2])
end)

reading('verdicts', function(P, A) -- Prefix, key, from, above, limit, most bytes.
  local found = call('ZRANGE', P .. 'y:' .. A[2], '[' .. A[3], '(' .. A[4], 'BYLEX', 'LIMIT', 0, A[5])
  return fill(found, tonumber(A[6]), function(result, member)
    result[#result + 1] = member
    return #member
  end)
end)

reading('journal', function(P, A) -- Prefix, key, after, until, most bytes of bodies, most entries.
  local j = P .. 'j:' .. A[2]
  local low, high = 0, call('LLEN', j)
  while low < high do
    local middle = math.floor((low + high) / 2)
    if less(A[3], call('LINDEX', j, middle):match('^%d+')) then high = middle else low = middle + 1 end
  end
  local result, size, most, count = {}, 0, tonumber(A[5]), tonumber(A[6])
  while true do
    -- A few at first, since they may be large.
    local entries = call('LRANGE', j, low, low + math.min(#result * 2 + 8, 100) - 1)
    for _, entry in ipairs(entries) do
      local seq, body = entry:match('^(%d+):(%d+)')
      if less(A[4], seq) or (#result > 0 and size >= most) or #result == count then return result end
      result[#result + 1] = entry
      size = size + tonumber(body)
    end
    if #entries == 0 then return result end
    low = low + #entries
  end
end)

reading('due_timers', function(P, A) -- Prefix, key, now, limit, offset, most bytes.
  local t = P .. 't:' .. A[2]
  local found = call('ZRANGE', P .. 'td:' .. A[2], '-inf', A[3], 'BYSCORE', 'LIMIT', A[5], A[4])
  return fill(found, tonumber(A[6]), function(result, name)
    local value = call('HGET', t, name) or ''
    result[#result + 1] = name
    result[#result + 1] = value
    return #name + #value
  end)
end)

reading('due', function(P, A) -- Prefix, now, limit, score or "", member, "1" for what is behind all of that score.
  return page(P .. 'due', A[2], tonumber(A[3]), A[4], A[5], A[6])
end)

reading('inbox', function(P, A) -- Prefix, user, after, limit, most bytes.
  local m = P .. 'm:' .. A[2]
  local found = call('ZRANGE', P .. 'q:' .. A[2], '(' .. A[3], '+inf', 'BYSCORE', 'LIMIT', 0, A[4])
  return fill(found, tonumber(A[5]), function(result, id)
    local parts = call('HMGET', m, 'm' .. id, 'o' .. id)
    result[#result + 1] = id
    result[#result + 1] = parts[1]
    result[#result + 1] = parts[2] or ''
    return #parts[1]
  end)
end)

reading('inbox_size', function(P, A) -- Prefix, user.
  return {size_of(P, A[2])}
end)

reading('inboxes', function(P, A) -- Prefix, lower, upper, limit.
  local result = {}
  for _, user in ipairs(call('ZRANGE', P .. 'users', '[' .. A[2], '(' .. A[3], 'BYLEX', 'LIMIT', 0, A[4])) do
    local count, bytes = size_of(P, user)
    result[#result + 1] = user
    result[#result + 1] = count
    result[#result + 1] = bytes
  end
  return result
end)

reading('expired', function(P, A) -- Prefix, now, limit, score or "", member, most bytes.
  local found, members = page(P .. 'expiry', A[2], tonumber(A[3]), A[4], A[5], ''), {}
  for i = 1, #found, 2 do members[#members + 1] = found[i] end
  return fill(members, tonumber(A[6]), function(result, member)
    local id, user = member:sub(9, 16), member:sub(17)
    local parts = call('HMGET', P .. 'm:' .. user, 'm' .. id, 'o' .. id)
    result[#result + 1] = user
    result[#result + 1] = id
    result[#result + 1] = parts[1]
    result[#result + 1] = parts[2] or ''
    return #parts[1]
  end)
end)
