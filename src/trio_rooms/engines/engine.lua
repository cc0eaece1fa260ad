-- What of an engine has to be done in one step, as functions of the server. All keys begin with the first argument,
-- "{PREFIX}:", called P here.
--
--   nodes        zset of the incarnations that are members, by when their leases end (seconds of this server's clock)
--   about        hash, incarnation: what it says about itself
--   leases       hash, incarnation: seconds of its lease
--   beat         when somebody renewed last
--   epochs       the highest epoch that was given out
--   dead         zset of incarnations that are over and have something in at:, by when they were found so
--   at:INC       set of rooms of an incarnation that have something to be looked after once it is over; the
--                store's, see there. Here: rooms that it has claimed of which nothing is stored
--   r:KEY        hash of a room, the store's. Here: o its owner, k the epoch of its claim; both missing: nobody
--   user:USER    set of the incarnations that a user is connected to
--   users:INC    set of the users that are connected to an incarnation, so that it can be taken out of the above
--   left         set of incarnations that are over, and have such a set still

-- There is none yet when this is loaded.
local function call(...) return redis.call(...) end

local function clock()
  local time = call('TIME')
  return tonumber(time[1]) + tonumber(time[2]) / 1000000
end

local function seconds(time)
  return ('%.6f'):format(time)
end

-- Half of the shortest lease, and more than passes between the renewals of anybody who lives.
local function pause_of(P)
  local least = math.huge
  for _, lease in ipairs(call('HVALS', P .. 'leases')) do least = math.min(least, tonumber(lease)) end
  return math.max(least / 2, 0.4)
end

-- Whether nobody could renew for long, so that no lease says anything: the server was away, or its clock was set.
local function was_away(P, at)
  local beat = tonumber(call('GET', P .. 'beat') or at)
  return at < beat or at - beat > pause_of(P)
end

-- An incarnation is over for good.
local function forget(P, incarnation, at)
  call('ZREM', P .. 'nodes', incarnation)
  call('HDEL', P .. 'about', incarnation)
  call('HDEL', P .. 'leases', incarnation)
  if call('EXISTS', P .. 'at:' .. incarnation) == 1 then
    call('ZADD', P .. 'dead', 'NX', seconds(at), incarnation)
  end
  if call('EXISTS', P .. 'users:' .. incarnation) == 1 then call('SADD', P .. 'left', incarnation) end
end

-- Forget to whom users were connected who is over: some of them at a time.
local function sweep(P)
  local incarnation = call('SRANDMEMBER', P .. 'left')
  if not incarnation then return end
  local users = P .. 'users:' .. incarnation
  for _, user in ipairs(call('SPOP', users, 100)) do call('SREM', P .. 'user:' .. user, incarnation) end
  if call('EXISTS', users) == 0 then call('SREM', P .. 'left', incarnation) end
end

-- Bury whose lease is over. Where nobody could renew, all leases begin anew.
local function look(P, at)
  if was_away(P, at) then
    local leases = call('HGETALL', P .. 'leases')
    for i = 1, #leases, 2 do
      call('ZADD', P .. 'nodes', 'XX', seconds(at + tonumber(leases[i + 1])), leases[i])
    end
  else
    for _, one in ipairs(call('ZRANGE', P .. 'nodes', '-inf', seconds(at), 'BYSCORE')) do forget(P, one, at) end
  end
  call('SET', P .. 'beat', seconds(at))
end

local function lives(P, incarnation, at)
  local ends = call('ZSCORE', P .. 'nodes', incarnation)
  return ends and (tonumber(ends) > at or was_away(P, at))
end

local function renewed(P, incarnation, about, lease, at)
  call('ZADD', P .. 'nodes', seconds(at + tonumber(lease)), incarnation)
  if call('HGET', P .. 'leases', incarnation) ~= lease then call('HSET', P .. 'leases', incarnation, lease) end
  if call('HGET', P .. 'about', incarnation) ~= about then call('HSET', P .. 'about', incarnation, about) end
  return {1, call('HGETALL', P .. 'about')}
end

-- None of these is refused where memory has run out: what they write is small, and has to be done before anything can
-- be taken away.
local small = {'allow-oom'}

register('join', function(_, A)
  local P, incarnation, about, lease = A[1], A[2], A[3], A[4]
  local at = clock()
  local name = incarnation:match('^[^#]*#')
  for _, other in ipairs(call('ZRANGE', P .. 'nodes', 0, -1)) do
    if other:sub(1, #name) == name then forget(P, other, at) end
  end
  look(P, at)
  return renewed(P, incarnation, about, lease, at)
end, small)

register('renew', function(_, A)
  local P, incarnation, about, lease = A[1], A[2], A[3], A[4]
  local at = clock()
  look(P, at)
  sweep(P)
  if not call('ZSCORE', P .. 'nodes', incarnation) then return {0, call('HGETALL', P .. 'about')} end
  return renewed(P, incarnation, about, lease, at)
end, small)

register('leave', function(_, A)
  forget(A[1], A[2], clock())
end, small)

-- P, incarnation, key. Gives owner and epoch.
register('claim', function(_, A)
  local P, incarnation, key = A[1], A[2], A[3]
  local r, at = P .. 'r:' .. key, clock()
  local found = call('HMGET', r, 'o', 'k', 'n')
  local owner, epoch = found[1], found[2] or '0'
  if owner and lives(P, owner, at) then return {owner, epoch} end
  if not lives(P, incarnation, at) then return {'', epoch} end
  if owner then forget(P, owner, at) end
  -- By the clock, so that none is given out twice although this server has lost what it knew last.
  local last = tonumber(call('GET', P .. 'epochs') or 0)
  epoch = ('%.0f'):format(math.max(last + 1, math.floor(at * 1000000)))
  call('SET', P .. 'epochs', epoch)
  call('HSET', r, 'o', incarnation, 'k', epoch)
  if call('EXISTS', P .. 'a:' .. key) == 1 then call('HSET', r, 'u', 1) end
  if not found[3] then call('SADD', P .. 'at:' .. incarnation, key) end
  return {incarnation, epoch}
end, small)

-- P, keys. Gives their owners, '' for those that have none.
register('find', function(_, A)
  local P, at, owners = A[1], clock(), {}
  for i = 2, #A do
    local owner = call('HGET', P .. 'r:' .. A[i], 'o')
    owners[i - 1] = owner and lives(P, owner, at) and owner or ''
  end
  return owners
end, {'no-writes'})

-- P, incarnation, epoch, key. Gives whether it was this claim.
register('release', function(_, A)
  local P, incarnation, key = A[1], A[2], A[4]
  local r = P .. 'r:' .. key
  local found = call('HMGET', r, 'o', 'k')
  if found[1] ~= incarnation or found[2] ~= A[3] then return 0 end
  call('HDEL', r, 'o', 'k')
  if call('EXISTS', P .. 'a:' .. key) == 0 then call('SREM', P .. 'at:' .. incarnation, key) end
  if call('ZREM', P .. 'ended', key) == 1 then call('DEL', r) end
  return 1
end, small)

-- P, incarnation, then key and epoch of each. Gives the keys that are its own now.
register('reclaim', function(_, A)
  local P, incarnation, kept = A[1], A[2], {}
  if not lives(P, incarnation, clock()) then return kept end
  for i = 3, #A, 2 do
    local r = P .. 'r:' .. A[i]
    local found = call('HMGET', r, 'o', 'k')
    if found[1] and found[2] == A[i + 1] then
      call('HSET', r, 'o', incarnation)
      call('SMOVE', P .. 'at:' .. found[1], P .. 'at:' .. incarnation, A[i])
      kept[#kept + 1] = A[i]
    end
  end
  return kept
end, small)

-- P, user. Gives the members that the user is connected to.
register('nodes_of', function(_, A)
  local P, set, at, found = A[1], A[1] .. 'user:' .. A[2], clock(), {}
  for _, incarnation in ipairs(call('SMEMBERS', set)) do
    if lives(P, incarnation, at) then
      found[#found + 1] = incarnation
    elseif not call('ZSCORE', P .. 'nodes', incarnation) then
      call('SREM', set, incarnation)
    end
  end
  return found
end, small)

-- P, user, incarnation, "1" where she is connected to it.
register('note_user', function(_, A)
  local P, user, incarnation = A[1], A[2], A[3]
  local here = A[4] == '1'
  if here and not call('ZSCORE', P .. 'nodes', incarnation) then return end -- It comes too late.
  call(here and 'SADD' or 'SREM', P .. 'user:' .. user, incarnation)
  call(here and 'SADD' or 'SREM', P .. 'users:' .. incarnation, user)
end, small)
