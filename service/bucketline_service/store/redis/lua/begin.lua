-- Begin a generation if it follows the present one, its session is new, and the slowest rank's cursor is as expected.
-- Costs O(1); with the slowest rank, O(world size). Records of older generations stay: their id makes them invalid.
-- KEYS[1] bucketline:{run}:generation  string, the present generation, packed; until delete_run
-- KEYS[2] bucketline:{run}:sessions    hash, session name -> generation number; until delete_run
-- KEYS[3] bucketline:{run}:ranks       hash, rank -> record, packed; until delete_run
-- ARGV    generation (packed), its number, the id that it follows, session ('-' or '+name'),
--         slowest rank's expected epoch and step ('' and '': any)
-- No times.
-- Answers nil if there is no run, else {begun (0 or 1), the present generation}.
local packed, number, follows, session, slow_epoch, slow_step =
    ARGV[1], ARGV[2], ARGV[3], ARGV[4], ARGV[5], ARGV[6]

local present = redis.call('GET', KEYS[1])
if not present then
    return false
end
local present_id, world_size, origin_epoch, origin_step = string.match(present, '^(%S+) (%d+) (%d+) (%d+) ')

-- The smallest cursor of all ranks, as two numbers. That of a rank without a record is the origin, before all others.
local function slowest()
    local origin = {tonumber(origin_epoch), tonumber(origin_step)}
    local num_ranks, num_present = tonumber(world_size), 0
    if redis.call('HLEN', KEYS[3]) < num_ranks then
        return origin
    end
    local least
    local records = redis.call('HGETALL', KEYS[3])
    for i = 1, #records, 2 do
        local of, epoch, step = string.match(records[i + 1], '^(%S+) %d+ (%d+) (%d+) ')
        if of == present_id and tonumber(records[i]) < num_ranks then
            num_present = num_present + 1
            epoch, step = tonumber(epoch), tonumber(step)
            if not least or epoch < least[1] or (epoch == least[1] and step < least[2]) then
                least = {epoch, step}
            end
        end
    end
    if num_present < num_ranks then
        return origin
    end
    return least
end

if present_id ~= follows then
    return {0, present}
end
if session ~= '-' and redis.call('HEXISTS', KEYS[2], string.sub(session, 2)) == 1 then
    return {0, present}
end
if slow_epoch ~= '' then
    local least = slowest()
    if least[1] ~= tonumber(slow_epoch) or least[2] ~= tonumber(slow_step) then
        return {0, present}
    end
end
if session ~= '-' then
    redis.call('HSET', KEYS[2], string.sub(session, 2), number)
end
redis.call('SET', KEYS[1], packed)
return {1, packed}
