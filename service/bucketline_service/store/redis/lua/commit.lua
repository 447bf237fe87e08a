-- Prove leases and move their ranks' cursors forward, each commit on its own, as decide_commit of lease_decisions.py does for one.
-- KEYS[1] bucketline:{run}:generation  string, the present generation, packed; until delete_run
-- KEYS[2] bucketline:{run}:ranks       hash, rank -> record, packed; until delete_run
-- ARGV    lease stride, how old last_seen_s may grow, touch ('1': write again what is already there), then each commit, packed:
--         'rank lease id trusted now to_epoch to_step from_epoch from_step', trusted is 0 or 1, and '-' stands for a
--         missing cursor (to) or not_before (from)
-- Times are Unix seconds, kept as the text that was passed.
-- Answers nil if there is no run, else {generation, then 'outcome epoch step' of each commit}.
local stride, seen_every, touch = tonumber(ARGV[1]), tonumber(ARGV[2]), ARGV[3] == '1'
local present = redis.call('GET', KEYS[1])
if not present then
    return false
end
local present_id, origin_epoch, origin_step = string.match(present, '^(%S+) %d+ (%d+) (%d+) ')

local function before(epoch_a, step_a, epoch_b, step_b)
    local a, b = tonumber(epoch_a), tonumber(epoch_b)
    return a < b or (a == b and tonumber(step_a) < tonumber(step_b))
end

local function commit(packed)
    local rank, lease, id, trusted, now, to_epoch, to_step, from_epoch, from_step =
        string.match(packed, '^(%d+) (%d+) (%S+) ([01]) (%S+) (%S+) (%S+) (%S+) (%S+)$')
    -- The rank's cursor: the origin, unless the present generation has a record of it.
    local epoch, step = origin_epoch, origin_step
    local held, since, seen, holder
    local stored = redis.call('HGET', KEYS[2], rank)
    local is_present = false
    if stored then
        local of, old_epoch, old_step, old_since, old_seen, old_holder
        of, held, old_epoch, old_step, old_since, old_seen, old_holder =
            string.match(stored, '^(%S+) (%d+) (%d+) (%d+) (%S+ %d+ %d+) (%S+) (.*)$')
        if of == present_id then
            is_present = true
            epoch, step, since, seen, holder = old_epoch, old_step, old_since, old_seen, old_holder
        end
    end

    local function answer(outcome)
        return outcome .. ' ' .. epoch .. ' ' .. step
    end

    local function write()
        redis.call('HSET', KEYS[2], rank,
            table.concat({present_id, lease, epoch, step, since, now, holder}, ' '))
    end

    if id ~= present_id then
        return answer('stale')
    end
    if tonumber(lease) % stride ~= tonumber(rank) then
        return answer('fenced')
    end
    local is_ahead = from_epoch ~= '-' and before(epoch, step, from_epoch, from_step)
    local moves = to_epoch ~= '-' and before(epoch, step, to_epoch, to_step)
    local is_held = is_present and lease == held
    if not is_held then
        -- An older generation's token is still a lower bound: that lease was given, and fenced by begin.
        local is_newer = not held or tonumber(lease) > tonumber(held)
        if not (is_newer and trusted == '1') then
            return answer('fenced')
        end
    end
    if is_ahead then
        return answer('ahead')
    end
    if moves then
        epoch, step = to_epoch, to_step
    end
    if not is_held then
        since, holder = table.concat({now, epoch, step}, ' '), ''
        write()
        return answer('adopted')
    end
    if moves or tonumber(now) - tonumber(seen) >= seen_every then
        write()
    elseif touch then
        redis.call('HSET', KEYS[2], rank, stored)
    end
    return answer('ok')
end

local answers = {present}
for i = 4, #ARGV do
    answers[i - 2] = commit(ARGV[i])
end
return answers
