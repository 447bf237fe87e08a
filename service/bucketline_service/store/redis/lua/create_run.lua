-- Create a run that was announced, unless it exists.
-- KEYS[1] bucketline:{run}:generation  string, the present generation, packed; until delete_run
-- KEYS[2] bucketline:{run}:document    string, opaque; until delete_run
-- KEYS[3] bucketline:{run}:sessions    hash, session name -> generation number; until delete_run
-- KEYS[4] bucketline:{run}:announced   set, births that the run may be created with; until it is
-- KEYS[5] and further: the keys of the run's reports; until delete_run
-- ARGV    generation (packed), its number, session ('-' or '+name'), document, touch ('1': write again what is already there),
--         the birth that was announced
-- No times.
-- Answers {made (0 or 1), generation, document} of the stored run, or nil if it does not exist and the announcement is
-- no longer valid.
local packed, number, session, document, touch, birth = ARGV[1], ARGV[2], ARGV[3], ARGV[4], ARGV[5], ARGV[6]

local present = redis.call('GET', KEYS[1])
if present then
    if touch == '1' then
        redis.call('SET', KEYS[1], present)
    end
    return {0, present, redis.call('GET', KEYS[2])}
end
if redis.call('SISMEMBER', KEYS[4], birth) == 0 then
    return false
end
redis.call('UNLINK', KEYS[4])
-- An older coordinator that deleted the run does not know its reports.
redis.call('UNLINK', unpack(KEYS, 5))
redis.call('SET', KEYS[2], document)
if session ~= '-' then
    redis.call('HSET', KEYS[3], string.sub(session, 2), number)
end
redis.call('SET', KEYS[1], packed)
return {1, packed, document}
