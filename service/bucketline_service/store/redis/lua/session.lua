-- Find the generation that a session name began.
-- KEYS[1] bucketline:{run}:generation  string, the present generation, packed; until delete_run
-- KEYS[2] bucketline:{run}:sessions    hash, session name -> generation number; until delete_run
-- ARGV    session name, touch ('1': write again what is already there)
-- No times. Changes nothing.
-- Answers nil if there is no run, else {present generation, number or nil}.
local present = redis.call('GET', KEYS[1])
if not present then
    return false
end
local number = redis.call('HGET', KEYS[2], ARGV[1])
if number and ARGV[2] == '1' then
    redis.call('SET', KEYS[1], present)
end
return {present, number}
