-- Give a rank's lease to a holder: the one it has, else a new one with a larger token.
-- KEYS[1] bucketline:{run}:generation  string, the present generation, packed; until delete_run
-- KEYS[2] bucketline:{run}:ranks       hash, rank -> record, packed; until delete_run
-- ARGV    rank, holder, generation id, proposed token, lease stride, the largest token, now, how old last_seen_s may
--         grow, touch ('1': write again what is already there)
-- Times are Unix seconds, kept as the text that was passed.
-- Answers nil if there is no run, {} if another generation is present, else {record}.
local rank, holder, id, proposed, stride, max_lease, now, seen_every, touch =
    ARGV[1], ARGV[2], ARGV[3], ARGV[4], ARGV[5], ARGV[6], ARGV[7], ARGV[8], ARGV[9] == '1'

local present = redis.call('GET', KEYS[1])
if not present then
    return false
end
local present_id, epoch, step = string.match(present, '^(%S+) %d+ (%d+) (%d+) ')
if present_id ~= id then
    return {}
end

local lease = proposed
local record = redis.call('HGET', KEYS[2], rank)
if record then
    local of, old_lease, old_epoch, old_step, since, seen, old_holder =
        string.match(record, '^(%S+) (%d+) (%d+) (%d+) (%S+ %d+ %d+) (%S+) (.*)$')
    if of == present_id then
        if old_holder == holder then
            local is_old = tonumber(now) - tonumber(seen) >= tonumber(seen_every)
            if is_old then
                record = table.concat({of, old_lease, old_epoch, old_step, since, now, holder}, ' ')
            end
            if is_old or touch then
                redis.call('HSET', KEYS[2], rank, record)
            end
            return {record}
        end
        epoch, step = old_epoch, old_step
    end
    -- A record of an older generation is invalid except for its token: tokens grow across generations.
    local next_lease = tonumber(old_lease) + tonumber(stride)
    if next_lease > tonumber(proposed) and next_lease <= tonumber(max_lease) then
        lease = string.format('%.0f', next_lease)
    end
end
record = table.concat({present_id, lease, epoch, step, now, epoch, step, now, holder}, ' ')
redis.call('HSET', KEYS[2], rank, record)
return {record}
