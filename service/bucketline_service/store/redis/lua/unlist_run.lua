-- Remove a deleted run from the index, unless its name was announced again.
-- KEYS[1] bucketline:runs                        set, names of runs; permanent
-- KEYS[2] bucketline:announced:{bucketline:runs} hash, run -> its last announcement; until the run is unlisted
-- ARGV    run, the announcement before its keys were deleted ('' for none)
-- No times.
-- Answers whether it was removed (0 or 1).
if (redis.call('HGET', KEYS[2], ARGV[1]) or '') ~= ARGV[2] then
    return 0
end
redis.call('HDEL', KEYS[2], ARGV[1])
redis.call('SREM', KEYS[1], ARGV[1])
return 1
