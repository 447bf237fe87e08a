-- One consistent read of a run's generation and all its rank records, also those of older generations.
-- KEYS[1] bucketline:{run}:generation  string, the present generation, packed; until delete_run
-- KEYS[2] bucketline:{run}:ranks       hash, rank -> record, packed; until delete_run
-- No times. Writes nothing.
-- Answers nil if there is no run, else {generation, {rank, record, rank, record, ...}}.
local present = redis.call('GET', KEYS[1])
if not present then
    return false
end
return {present, redis.call('HGETALL', KEYS[2])}
