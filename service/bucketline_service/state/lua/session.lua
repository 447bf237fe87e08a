-- The generation that a session name began.
-- KEYS[1] bucketline:{run}:generation  string, the present generation, packed; until delete_run
-- KEYS[2] bucketline:{run}:sessions    hash, session name -> generation number; until delete_run
-- ARGV    session name
-- No times. Writes nothing.
-- Answers nil where there is no run, else {number or nil}.
if redis.call('EXISTS', KEYS[1]) == 0 then
    return false
end
return {redis.call('HGET', KEYS[2], ARGV[1])}
