-- One consistent reading of a run's generation and of all its rank records, those of older generations too.
-- KEYS[1] bucketline:{run}:generation  string, the present generation, packed; until delete_run
-- KEYS[2] bucketline:{run}:ranks       hash, rank -> record, packed; until delete_run
-- No times. Writes nothing.
-- Answers nil where there is no run, else {generation, {rank, record, rank, record, ...}}.
local present = redis.call('GET', KEYS[1])
if not present then
    return false
end
return {present, redis.call('HGETALL', KEYS[2])}
