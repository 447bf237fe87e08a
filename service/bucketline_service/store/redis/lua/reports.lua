-- One consistent read of some of a run's reports, in the order of their first ones.
-- KEYS[1] bucketline:{run}:generation        string, the present generation, packed; until delete_run
-- KEYS[2] bucketline:{run}:reports           hash, image -> report, packed; until delete_run
-- KEYS[3] bucketline:{run}:reported          list, the images of the hash in the order of their first reports; likewise
-- KEYS[4] bucketline:{run}:reports_not_kept  hash, rank -> 'count epoch step'; until delete_run
-- ARGV    how many reports to pass over ('': all but the newest), how many to read: 1 to 1,000
-- No times. Writes nothing.
-- Answers nil if there is no run, else {how many images there are, how many were passed over, values of
-- reports_not_kept, images, their reports}.
if not redis.call('GET', KEYS[1]) then
    return false
end
local num_images, limit = redis.call('LLEN', KEYS[3]), tonumber(ARGV[2])
local after = tonumber(ARGV[1]) or math.max(0, num_images - limit)
-- past the end of the list there is nothing, however far
after = math.min(after, num_images)
local images, reports = redis.call('LRANGE', KEYS[3], after, after + limit - 1), {}
if #images > 0 then
    reports = redis.call('HMGET', KEYS[2], unpack(images))
end
return {num_images, after, redis.call('HVALS', KEYS[4]), images, reports}
