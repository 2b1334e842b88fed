--[[
All mutations of the work streams. Each call is one command, atomic in the server.

An entry has three fields:
    r  run id
    p  payload (protobuf)
    d  deliveries that failed: a live owner said so, with a cause
    l  leases lost under earlier entry ids (an entry that is handed back or failed gets a new id)

An owner that fails an entry knows what is wrong with it. An owner that died holding it mostly died of something
else, and of all that it held at once: evicted, out of memory, killed. So the two are counted apart, and it takes far
more lost leases than failures to call an entry poison.

KEYS  1 = stream, 2 = set of open runs, 3 = destination stream (hand_over)
ARGV  1 = command, 2 = consumer group, 3 = consumer, then as below

    join       run                         make the group, unless the run is closed     -> 1 or 0
    add        run payload                 append if the run is open                    -> id or ""
    hand_over  id run payload              ack + delete, append payload to KEYS[3]      -> moved | lost | closed
    ack        id...                       ack + delete what is still ours              -> count
    renew      (id run)...                 reset the idle time of what is still ours; the work of closed runs
                                           is deleted                                   -> {id...} that are kept
    claim      idle_ms count max dead      take over entries whose lease ran out;
                                           those that lost max leases go to dead<run>   -> {{id, payload, deliveries, run}...}
    release    max dead                        take every entry from `consumer`, which is dead, and append it
                                           again for the next owner; counted as a lost lease  -> count
    hand_back  id...                       append again for the next owner, uncounted   -> count
    fail       id cause max dead           append again, or to dead<run> at max failures      -> retried | dead | lost
--]]

local stream, open_runs = KEYS[1], KEYS[2]
local command, group, consumer = ARGV[1], ARGV[2], ARGV[3]

-- Deliveries of an entry that this consumer still owns, or nil when another has taken it over.
local function owned(id)
  local pending = redis.call('XPENDING', stream, group, id, id, 1)
  if #pending == 1 and pending[1][2] == consumer then
    return pending[1][4]
  end
  return nil
end

local function fields_of(id)
  local found = redis.call('XRANGE', stream, id, id)
  if #found == 0 then
    return nil
  end
  local fields = {}
  for i = 1, #found[1][2], 2 do
    fields[found[1][2][i]] = found[1][2][i + 1]
  end
  return fields
end

-- Failures and earlier lost leases of an entry.
local function counts(fields)
  return tonumber(fields.d), tonumber(fields.l)
end

local function remove(id)
  redis.call('XACK', stream, group, id)
  redis.call('XDEL', stream, id)
end

local function bury(id, fields, deliveries, cause, dead_prefix)
  redis.call('XADD', dead_prefix .. fields.r, '*', 'stream', stream, 'deliveries', deliveries,
    'cause', cause, 'p', fields.p)
  remove(id)
end

-- A stream whose group was lost with the server's data has no pending entries: nothing is ours.
if command ~= 'add' and command ~= 'join' then
  local known = redis.pcall('XINFO', 'GROUPS', stream)
  local found = false
  if not known.err then
    for _, info in ipairs(known) do
      if info[2] == group then found = true end
    end
  end
  if not found then
    if command == 'hand_over' or command == 'fail' then return 'lost' end
    if command == 'claim' or command == 'renew' then return {} end
    return 0
  end
end

if command == 'join' then
  if ARGV[4] ~= '' and redis.call('SISMEMBER', open_runs, ARGV[4]) == 0 then
    return 0
  end
  redis.pcall('XGROUP', 'CREATE', stream, group, '0', 'MKSTREAM')  -- BUSYGROUP: another consumer was first
  return 1

elseif command == 'add' then
  if redis.call('SISMEMBER', open_runs, ARGV[4]) == 0 then
    return ''
  end
  return redis.call('XADD', stream, '*', 'r', ARGV[4], 'p', ARGV[5], 'd', 0, 'l', 0)

elseif command == 'hand_over' then
  local id, run, payload = ARGV[4], ARGV[5], ARGV[6]
  if not owned(id) then
    return 'lost'
  end
  remove(id)
  if redis.call('SISMEMBER', open_runs, run) == 0 then
    return 'closed'
  end
  redis.call('XADD', KEYS[3], '*', 'r', run, 'p', payload, 'd', 0, 'l', 0)
  return 'moved'

elseif command == 'ack' then
  local count = 0
  for i = 4, #ARGV do
    if owned(ARGV[i]) then
      remove(ARGV[i])
      count = count + 1
    end
  end
  return count

elseif command == 'renew' then
  local kept = {}
  for i = 4, #ARGV, 2 do
    local id, run = ARGV[i], ARGV[i + 1]
    if owned(id) then
      if redis.call('SISMEMBER', open_runs, run) == 0 then
        remove(id)
      else
        redis.call('XCLAIM', stream, group, consumer, 0, id, 'JUSTID')
        table.insert(kept, id)
      end
    end
  end
  return kept

elseif command == 'claim' then
  local idle_ms, count, max, dead_prefix = ARGV[4], ARGV[5], tonumber(ARGV[6]), ARGV[7]
  local taken = {}
  local expired = redis.call('XPENDING', stream, group, 'IDLE', idle_ms, '-', '+', count)
  for _, pending in ipairs(expired) do
    local id, last_owner = pending[1], pending[2]
    local fields = fields_of(id)
    if not fields then
      redis.call('XACK', stream, group, id)
    elseif redis.call('SISMEMBER', open_runs, fields.r) == 0 then
      remove(id)
    else
      local failures, lost = counts(fields)
      lost = lost + pending[4]
      if lost >= max then
        bury(id, fields, failures + lost, 'lease ran out; last owner ' .. last_owner, dead_prefix)
      else
        redis.call('XCLAIM', stream, group, consumer, 0, id)
        table.insert(taken, { id, fields.p, failures + lost + 1, fields.r })
      end
    end
  end
  return taken

elseif command == 'release' then
  local max, dead_prefix = tonumber(ARGV[4]), ARGV[5]
  local held = redis.call('XPENDING', stream, group, '-', '+', 10000, consumer)
  for _, pending in ipairs(held) do
    local id = pending[1]
    local fields = fields_of(id)
    if not fields or redis.call('SISMEMBER', open_runs, fields.r) == 0 then
      remove(id)
    else
      local failures, lost = counts(fields)
      lost = lost + pending[4]
      if lost >= max then
        bury(id, fields, failures + lost, 'its owner died; last owner ' .. consumer, dead_prefix)
      else
        remove(id)
        redis.call('XADD', stream, '*', 'r', fields.r, 'p', fields.p, 'd', failures, 'l', lost)
      end
    end
  end
  return #held

elseif command == 'hand_back' then
  local count = 0
  for i = 4, #ARGV do
    local delivered = owned(ARGV[i])
    local fields = delivered and fields_of(ARGV[i])
    if fields then
      local failures, lost = counts(fields)
      remove(ARGV[i])
      redis.call('XADD', stream, '*', 'r', fields.r, 'p', fields.p, 'd', failures, 'l', lost + delivered - 1)
      count = count + 1
    end
  end
  return count

elseif command == 'fail' then
  local id, cause, max, dead_prefix = ARGV[4], ARGV[5], tonumber(ARGV[6]), ARGV[7]
  local delivered = owned(id)
  local fields = delivered and fields_of(id)
  if not fields then
    return 'lost'
  end
  local failures, lost = counts(fields)
  failures, lost = failures + 1, lost + delivered - 1
  if failures >= max then
    bury(id, fields, failures + lost, cause, dead_prefix)
    return 'dead'
  end
  remove(id)
  redis.call('XADD', stream, '*', 'r', fields.r, 'p', fields.p, 'd', failures, 'l', lost)
  return 'retried'
end

return redis.error_reply('unknown command ' .. command)
