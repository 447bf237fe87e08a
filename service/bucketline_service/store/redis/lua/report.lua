-- Keep what the worker of one batch reports of its images, as _report of sqlite/store.py does.
-- KEYS[1] bucketline:{run}:generation        string, the present generation, packed; until delete_run
-- KEYS[2] bucketline:{run}:reports           hash, image -> report, packed; until delete_run
-- KEYS[3] bucketline:{run}:reported          list, the images of the hash in the order of their first reports; likewise
-- KEYS[4] bucketline:{run}:reports_not_kept  hash, rank -> 'count epoch step'; until delete_run
-- ARGV    epoch, step, rank, now, the most images, touch ('1': write again what is already there), then image, reason and
--         detail ('-' or '+text') of each report
-- Times are Unix seconds, kept as the text that was passed.
-- Answers nil if there is no run, else {the number of images, then the outcome of each report}.
local epoch, step, rank, now, max_images, touch =
    ARGV[1], ARGV[2], ARGV[3], ARGV[4], tonumber(ARGV[5]), ARGV[6] == '1'

local present = redis.call('GET', KEYS[1])
if not present then
    return false
end
local place = table.concat({epoch, step, rank, now}, ' ')

local function is_after(last_epoch, last_step, last_rank)
    local e, s = tonumber(last_epoch), tonumber(last_step)
    if tonumber(epoch) ~= e then
        return tonumber(epoch) > e
    end
    if tonumber(step) ~= s then
        return tonumber(step) > s
    end
    return tonumber(rank) > tonumber(last_rank)
end

local num_images, num_not_kept, num_written = redis.call('LLEN', KEYS[3]), 0, 0
local answer = {num_images}
for i = 7, #ARGV, 3 do
    local image, about = ARGV[i], ARGV[i + 1] .. ' ' .. ARGV[i + 2]
    local stored = redis.call('HGET', KEYS[2], image)
    local outcome
    if stored then
        local count, first, last_epoch, last_step, last_rank =
            string.match(stored, '^(%d+) (%d+ %d+ %d+ %S+) (%d+) (%d+) (%d+) ')
        outcome = 'repeated'
        if is_after(last_epoch, last_step, last_rank) then
            count = string.format('%.0f', tonumber(count) + 1)
            redis.call('HSET', KEYS[2], image, table.concat({count, first, place, about}, ' '))
            outcome = 'counted'
        end
    elseif num_images < max_images then
        redis.call('HSET', KEYS[2], image, table.concat({'1', place, place, about}, ' '))
        redis.call('RPUSH', KEYS[3], image)
        num_images = num_images + 1
        outcome = 'new'
    else
        num_not_kept = num_not_kept + 1
        outcome = 'not_kept'
    end
    if outcome == 'new' or outcome == 'counted' then
        num_written = num_written + 1
    end
    answer[#answer + 1] = outcome
end
if num_not_kept > 0 then
    local count, last_epoch, last_step =
        string.match(redis.call('HGET', KEYS[4], rank) or '0 -1 -1', '^(%d+) (%S+) (%S+)$')
    if is_after(last_epoch, last_step, rank) then
        count = string.format('%.0f', tonumber(count) + num_not_kept)
        redis.call('HSET', KEYS[4], rank, table.concat({count, epoch, step}, ' '))
        num_written = num_written + 1
    else
        for i = 2, #answer do
            if answer[i] == 'not_kept' then
                answer[i] = 'repeated'
            end
        end
    end
end
if num_written == 0 and touch then
    redis.call('SET', KEYS[1], present)
end
answer[1] = num_images
return answer
