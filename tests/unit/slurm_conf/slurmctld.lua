-- Stands in for slurmctld: calls job_submit.lua with the jobs on stdin and tells what became of them.
--
-- Usage: lua slurmctld.lua JOB_SUBMIT_LUA
-- Strings travel as "<length>:<bytes>,", an absent one as "-,". A job is seven of them: function
-- ("submit" or "modify"), script, comment, extra, which part of a heterogeneous job it is, the
-- submitting user's uid, and for "modify" the old comment; the answer is
-- return code, what the user reads, what is logged, script, comment, extra.

local said, logged = {}, {}

slurm = {
	SUCCESS = 0,
	ERROR = -1,
	log_user = function(...) said[#said + 1] = string.format(...) end,
	log_error = function(...) logged[#logged + 1] = string.format(...) end,
}

local function read()
	local length = ""
	while true do
		local char = io.read(1)
		if char == nil then
			return nil, true
		elseif char == ":" then
			local text = tonumber(length) > 0 and io.read(tonumber(length)) or ""
			io.read(1)
			return text
		elseif char == "," then
			return nil
		end
		length = length .. char
	end
end

local function write(text)
	io.write(text and #text .. ":" .. text .. "," or "-,")
end

assert(dofile(arg[1]) == slurm.SUCCESS)
while true do
	local call, ended = read()
	if ended then
		break
	end
	local job = { script = read(), comment = read(), extra = read() }
	job.het_job_offset = tonumber(read())
	local uid = tonumber(read())
	local old = { comment = read() }
	said, logged = {}, {}
	local code
	if call == "submit" then
		code = slurm_job_submit(job, {}, uid)
	else
		code = slurm_job_modify(job, old, {}, uid)
	end
	for _, text in ipairs({ tostring(code), table.concat(said, "\n"), table.concat(logged, "\n") }) do
		write(text)
	end
	write(job.script)
	write(job.comment)
	write(job.extra)
end
