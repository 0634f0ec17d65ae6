-- Numbers of calls; see `model.counts`. A number is a hash of its buckets. No number has more than 15 digits, so
-- a number of Lua is exact here. An addition has owner, name, bucket, amount, group and the time until which it
-- is looked at ('0.0' for what is kept with a family of tasks).
local ADDITION = 6

local function number_key(owner, name)
    return P .. 'number:' .. packed(owner) .. name
end

local function whole(number)
    return string.format('%.0f', number)
end

-- How much of a number the additions of one call are.
local function added_by(additions, owner, name, since)
    local total = 0
    for i = 1, #additions, ADDITION do
        if additions[i] == owner and additions[i + 1] == name and tonumber(additions[i + 2]) >= since then
            total = total + tonumber(additions[i + 3])
        end
    end
    return total
end

local function number_of(owner, name, since)
    local total, fields = 0, redis.call('HGETALL', number_key(owner, name))
    for i = 1, #fields, 2 do
        if tonumber(fields[i]) >= since then total = total + tonumber(fields[i + 1]) end
    end
    return total
end

local function in_bucket(owner, name, bucket)
    return tonumber(redis.call('HGET', number_key(owner, name), bucket) or '0')
end

local function take_number(owner, name, bucket, amount)
    local key, present = number_key(owner, name), in_bucket(owner, name, bucket)
    if present > amount then
        redis.call('HSET', key, bucket, whole(present - amount))
        return false
    end
    redis.call('HDEL', key, bucket)
    return present > 0
end

local function take_back(additions)
    for i = 1, #additions, ADDITION do
        local owner, name, bucket, amount, group = unpack(additions, i, i + 4)
        if take_number(owner, name, bucket, tonumber(amount)) and group ~= '' then
            take_number(owner, group, bucket, 1)
        end
    end
end

-- *keep* is how long a family is kept; buckets that are over are dropped from the hash that grows
local function put_number(owner, name, bucket, amount, time, keep)
    local key = number_key(owner, name)
    redis.call('HSET', key, bucket, whole(in_bucket(owner, name, bucket) + amount))
    if tonumber(time) > 0 then
        keep = tonumber(time) + KEEP_KEYS
        redis.call('HSET', key .. ':until', bucket, time)
        local fields = redis.call('HGETALL', key .. ':until')
        for i = 1, #fields, 2 do
            if tonumber(fields[i + 1]) + KEEP_KEYS <= now then
                redis.call('HDEL', key, fields[i])
                redis.call('HDEL', key .. ':until', fields[i])
            end
        end
        lengthen(key .. ':until', keep)
    end
    lengthen(key, keep)
end

-- Whether a call may begin by its numbers: nothing, or the reason. *before* is what it has added before.
local function number_problem(seen, additions, before, most, values)
    for i = 1, #seen, 4 do
        local owner, name, since, expected = seen[i], seen[i + 1], tonumber(seen[i + 2]), tonumber(seen[i + 3])
        if number_of(owner, name, since) - added_by(before, owner, name, since) ~= expected then
            return {'changed'}
        end
    end
    for i = 1, #additions, ADDITION do
        local owner, name, bucket, amount, group = unpack(additions, i, i + 4)
        local present, place = in_bucket(owner, name, bucket), whole((i - 1) / ADDITION)
        if present + tonumber(amount) > most then return {'full', place, whole(present)} end
        if present == 0 and group ~= '' and in_bucket(owner, group, bucket) >= values then
            return {'values', place, whole(in_bucket(owner, group, bucket))}
        end
    end
end

local function add_numbers(additions, keep)
    for i = 1, #additions, ADDITION do
        local owner, name, bucket, amount, group, time = unpack(additions, i, i + 5)
        if group ~= '' and in_bucket(owner, name, bucket) == 0 then
            put_number(owner, group, bucket, 1, time, keep)
        end
        put_number(owner, name, bucket, tonumber(amount), time, keep)
    end
end
