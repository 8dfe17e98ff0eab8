-- Turns a job whose script has #K8S_ lines into a sandboxed job.
--
-- slurmctld calls this for every submission, one at a time and under its locks: no I/O here,
-- and nothing that grows with the script's body. What happens to a job with #K8S_ lines in its
-- header, or whose comment already ends with a request (the watcher puts a tag there):
--
--   1. its interpreter line "#!/bin/bash -l" becomes "#!/opt/sbridge/bin/sbridge-run /bin/bash -l";
--   2. what the #K8S_ lines ask for becomes the last word of its comment (from Slurm 23.02 on of
--      its `extra`, which hooks can read there), behind the user's own text:
--      sbridge1?image=docker.io%2Falpine%3A3&workdir=%2Fworkspace
--
-- The further parts of a heterogeneous job have no script; they get what the first one asked for.
-- Any other job is not touched. A fault of the user's refuses the job and says why; a fault in
-- here is logged and lets the job through as it came.
--
-- Slurm reads this file from slurm.conf's folder (JobSubmitPlugins=lua) and reads it again when
-- it changes. A site with a job_submit.lua of its own adds to it
--     dofile("/opt/sbridge/share/slurm-conf/job_submit.lua")
--     local sbridge_job_submit, sbridge_job_modify = slurm_job_submit, slurm_job_modify
-- and calls the two from its own functions. (slurmctld then looks at the site's file alone: touch
-- that one after an upgrade.) Works with Lua 5.1 to 5.4.

-- scripts/install sets these two.
local SBRIDGE_RUN = "/opt/sbridge/bin/sbridge-run"
local REQUEST_FIELD = "comment"

local MARKER = "sbridge1?"
local MAX_INTERPRETER_LINE = 255 -- what Linux reads of a #! line (127 before 5.1)
local MAX_FIELD = 1024           -- what slurmctld takes of a job's comment or extra, in bytes
local MAX_VALUE = 1024           -- of one directive, before it is encoded
local MAX_FINDINGS = 10

-- Text ------------------------------------------------------------------------------------
-- Scripts are as long as a user likes: every pattern that meets one unbounded must be linear.

local function trimmed(text)
	return text:find("^%s*$") and "" or text:match("^%s*(.*%S)")
end

local function percent_encoded(text)
	return (text:gsub("[^%w_.~-]", function(char)
		return string.format("%%%02X", char:byte())
	end))
end

-- The byte sequences of UTF-8 beyond ASCII (RFC 3629, section 4).
local UTF8_SEQUENCES = {
	"[\194-\223][\128-\191]",
	"\224[\160-\191][\128-\191]",
	"[\225-\236\238\239][\128-\191][\128-\191]",
	"\237[\128-\159][\128-\191]",
	"\240[\144-\191][\128-\191][\128-\191]",
	"[\241-\243][\128-\191][\128-\191][\128-\191]",
	"\244[\128-\143][\128-\191][\128-\191]",
}

local function is_utf8(text)
	for _, sequence in ipairs(UTF8_SEQUENCES) do
		text = text:gsub(sequence, "?")
	end
	return not text:find("[\128-\255]")
end

-- Foreign text as it may stand in a message: short, and nothing that a terminal would obey.
local function shown(text)
	if #text > 60 then
		text = text:sub(1, 60):gsub("[\192-\255][\128-\191]*$", "") .. "..."
	end
	return (text:gsub("%c", "?"))
end

-- How many letters must be added, dropped or replaced to turn one word into the other.
local function edit_distance(a, b)
	local row = {}
	for j = 0, #b do
		row[j] = j
	end
	for i = 1, #a do
		local diagonal = row[0]
		row[0] = i
		for j = 1, #b do
			local replaced = diagonal + (a:byte(i) == b:byte(j) and 0 or 1)
			diagonal = row[j]
			row[j] = math.min(replaced, row[j] + 1, row[j - 1] + 1)
		end
	end
	return row[#b]
end

local function nearest(word, known)
	local best, best_distance
	for _, candidate in ipairs(known) do
		local distance = edit_distance(word:sub(1, 32):upper(), candidate:upper())
		if distance * 2 <= #candidate and (not best or distance < best_distance) then
			best, best_distance = candidate, distance
		end
	end
	return best
end

-- Directives ------------------------------------------------------------------------------

local RUNTIMES = { "kubernetes", "podman", "apptainer", "host" }

local function image_fault(value)
	local is_image = value:find("^%w[%w._/:@-]*$")
		and not (value:find("//", 1, true) or value:find("[/:@]$") or value:find("[:@][:@/]"))
	if not is_image then
		return "is not an image reference; write it without quotes or blanks, like registry:port/name:tag"
	end
end

local function path_fault(value)
	if value:sub(1, 1) ~= "/" then
		return "is not an absolute path; write it in full, without quotes, like /workspace"
	end
end

local function runtime_fault(value)
	for _, runtime in ipairs(RUNTIMES) do
		if value == runtime then
			return nil
		end
	end
	local meant = nearest(value, RUNTIMES)
	return "is no runtime; " .. (meant and "did you mean " .. meant .. "? " or "")
		.. "Known are " .. table.concat(RUNTIMES, ", ")
end

local DIRECTIVES = {
	K8S_IMAGE = { key = "image", fault = image_fault },
	K8S_WORKDIR = { key = "workdir", fault = path_fault },
	K8S_SCRIPT = { key = "script", fault = path_fault },
	K8S_RUNTIME = { key = "runtime", fault = runtime_fault },
}
local NAMES = { "K8S_IMAGE", "K8S_WORKDIR", "K8S_SCRIPT", "K8S_RUNTIME" }

local function value_fault(name, value)
	if value == "" then
		return "has no value; write " .. name .. "=<value>, or remove the line"
	elseif #value > MAX_VALUE then
		return "is longer than " .. MAX_VALUE .. " bytes"
	elseif value:find("%c") then
		return "has a control character in it; type the line anew"
	elseif not is_utf8(value) then
		return "is not UTF-8 text; save the script as UTF-8"
	end
	return DIRECTIVES[name].fault(value)
end

local function name_fault(name)
	local meant = nearest(name, NAMES)
	return "unknown directive " .. shown(name) .. "; "
		.. (meant and "did you mean " .. meant .. "? " or "")
		.. "Known are " .. table.concat(NAMES, ", ")
end

-- Read one line "#K8S_NAME=value" into `request`; return what is wrong with it, or nil. `lines` knows
-- where each name stood first.
local function read_directive(line, number, request, lines)
	local name, rest = line:match("^#(K8S_[^=%s]*)(.*)$")
	if not DIRECTIVES[name] then
		return name_fault(name)
	end
	if lines[name] then
		return name .. " stands in line " .. lines[name] .. " already; keep one of the two"
	end
	lines[name] = number
	if rest:sub(1, 1) ~= "=" then
		return name .. ' must be followed by "=" and its value at once, like ' .. name .. "=<value>"
	end
	local value = trimmed(rest:sub(2))
	local fault = value_fault(name, value)
	if fault then
		return name .. "=" .. shown(value) .. " " .. fault
	end
	request[DIRECTIVES[name].key] = value
end

local function count_lines(text)
	local _, count = text:gsub("\n", "")
	return count
end

-- Read the #K8S_ lines of the script's header: the lines from the top that are blank or begin
-- with #, as sbatch reads its own. Costs two searches and the directives, however long the rest is.
local function read_header(script)
	local request, lines, findings = {}, {}, {}
	local header_end = script:find("\n[ \t\r\f\v]*[^%s#]") or #script + 1
	local position, number = 1, 1
	while #findings < MAX_FINDINGS do
		local first = script:find("\n#K8S_", position, true)
		if not first or first >= header_end then
			break
		end
		local last = (script:find("\n", first + 1, true) or #script + 1) - 1
		number = number + count_lines(script:sub(position, first))
		local fault = read_directive(script:sub(first + 1, last), number, request, lines)
		if fault then
			findings[#findings + 1] = "line " .. number .. ": " .. fault
		end
		position = last + 1
	end
	return request, findings
end

-- The request word --------------------------------------------------------------------------

-- Split "the user's text sbridge1?..." into the two; without a request the second is nil.
local function split_request(text)
	text = text or ""
	local start = text:match("^.* ()") or 1
	if text:sub(start, start + #MARKER - 1) == MARKER then
		return text:sub(1, math.max(start - 2, 0)), text:sub(start)
	end
	return text, nil
end

-- Put the two together again. The dropped file's name goes when room is short: it is nice to know,
-- and no job may fail for it.
local function joined(own, word)
	local blank = own == "" and "" or " "
	if #own + #blank + #word > MAX_FIELD then
		word = word:gsub("&file=[^&]*", "")
	end
	return own .. blank .. word
end

-- Add to the pairs ("key=value", encoded) those whose key is not among them yet.
local function add_pairs(pairs_so_far, keys, more)
	for _, pair in ipairs(more) do
		local key = pair:match("^[^=]*")
		if not keys[key] then
			keys[key] = true
			pairs_so_far[#pairs_so_far + 1] = pair
		end
	end
end

local function pairs_of_word(word)
	local found = {}
	for pair in (word or MARKER):sub(#MARKER + 1):gmatch("[^&]+") do
		found[#found + 1] = pair
	end
	return found
end

local function pairs_of_request(request)
	local found = {}
	for _, name in ipairs(NAMES) do
		local key = DIRECTIVES[name].key
		if request[key] then
			found[#found + 1] = key .. "=" .. percent_encoded(request[key])
		end
	end
	return found
end

-- What is in the words already was said outside the script (sbatch --comment, the watcher), and
-- as with sbatch's own options that wins over the script.
local function merged_word(words, request)
	local all, keys = {}, {}
	for _, word in ipairs(words) do
		add_pairs(all, keys, pairs_of_word(word))
	end
	add_pairs(all, keys, pairs_of_request(request))
	return MARKER .. table.concat(all, "&")
end

-- Heterogeneous jobs -------------------------------------------------------------------------

local FIRST_PART = 0
local NO_PART = 0xfffffffe -- NO_VAL: the job is not heterogeneous

-- What the first part of each user's last heterogeneous job asked for, or nil: slurmctld asks for
-- the parts of a job one after the other.
local first_parts = {}

-- Return the word without what names a submission: only one part of it has the script.
local function word_for_others(word)
	local kept = {}
	for _, pair in ipairs(pairs_of_word(word)) do
		if not pair:find("^tag=") and not pair:find("^file=") then
			kept[#kept + 1] = pair
		end
	end
	return kept[1] and MARKER .. table.concat(kept, "&") or nil
end

local function remember_first_part(job_desc, submit_uid, word)
	if job_desc.het_job_offset == FIRST_PART then
		first_parts[submit_uid] = word and word_for_others(word)
	end
end

-- Return what to set in a job without a script: something for further parts only.
local function plan_part(job_desc, submit_uid)
	local offset, word = job_desc.het_job_offset, first_parts[submit_uid]
	if not word or not offset or offset == FIRST_PART or offset >= NO_PART then
		return nil, {}
	end
	local own, own_word = split_request(job_desc[REQUEST_FIELD])
	local words = { word }
	if own_word then -- sbatch gives every part the comment of its command line, so the watcher's, too
		table.insert(words, 1, word_for_others(own_word) or MARKER)
	end
	local field = joined(own, merged_word(words, {}))
	if #field > MAX_FIELD then
		return nil, { "part " .. offset .. " of the job: the #K8S_ values take " .. #field .. " bytes together with its own "
			.. REQUEST_FIELD .. ", and Slurm has room for " .. MAX_FIELD .. "; shorten them" }
	end
	return { [REQUEST_FIELD] = field }, {}
end

-- The interpreter line ------------------------------------------------------------------------

-- Return the script with sbridge-run before its interpreter, or nil and what is in the way.
local function rewritten(script)
	local line = script:match("^#!([^\n]*)")
	if not line then
		return nil, "line 1: must name the interpreter, like #!/bin/bash"
	end
	local interpreter = trimmed(line)
	if interpreter == "" then
		return nil, "line 1: #! names no interpreter; write #!/bin/bash"
	end
	if ("/" .. interpreter:match("^%S*")):sub(-12) == "/sbridge-run" then
		return script
	end
	local new_line = "#!" .. SBRIDGE_RUN .. " " .. interpreter
	if #new_line > MAX_INTERPRETER_LINE then
		local room = MAX_INTERPRETER_LINE - #SBRIDGE_RUN - 3
		return nil, "line 1: the interpreter is " .. #interpreter .. " bytes long, and a sandboxed job has room for "
			.. room .. "; use a shorter path, a link for instance"
	end
	return new_line .. script:sub(#line + 3)
end

-- The job ----------------------------------------------------------------------------------

-- Work out what to set in the job, without setting it. Returns the new values by field (nil: the
-- job is none of ours) and what is wrong with it.
local function plan(job_desc, submit_uid)
	local script = job_desc.script
	remember_first_part(job_desc, submit_uid, nil)
	if not script then
		return plan_part(job_desc, submit_uid)
	end
	local has_directives = false
	local request, findings = {}, {}
	if script:find("\n#K8S_", 1, true) then
		request, findings = read_header(script)
		has_directives = next(request) ~= nil or #findings > 0
	end
	local own, word = split_request(job_desc[REQUEST_FIELD])
	local words = { word }
	if REQUEST_FIELD ~= "comment" then
		local _, comment_word = split_request(job_desc.comment)
		words[#words + 1] = comment_word
	end
	if not has_directives and #words == 0 then
		return nil, {}
	end

	local new_script, obstacle = rewritten(script)
	if obstacle and has_directives then
		table.insert(findings, 1, obstacle)
	end
	local merged = merged_word(words, request)
	remember_first_part(job_desc, submit_uid, merged)
	local field = joined(own, merged)
	if #field > MAX_FIELD and has_directives then
		findings[#findings + 1] = "the #K8S_ values take " .. #field .. " bytes together with the job's own "
			.. REQUEST_FIELD .. ", and Slurm has room for " .. MAX_FIELD .. "; shorten them"
	end
	local changes = { [REQUEST_FIELD] = field }
	if new_script and new_script ~= script then
		changes.script = new_script
	end
	return changes, findings
end

-- Set the fields, all or none of them.
local function apply(job_desc, changes)
	local before = {}
	for field in pairs(changes) do
		before[field] = job_desc[field] or ""
	end
	local ok, reason = pcall(function()
		for field, value in pairs(changes) do
			job_desc[field] = value
		end
	end)
	if not ok then
		for field, value in pairs(before) do
			job_desc[field] = value
		end
		error(reason, 0)
	end
end

function slurm_job_submit(job_desc, part_list, submit_uid)
	local ok, changes, findings = pcall(plan, job_desc, submit_uid)
	if ok and #findings > 0 then
		slurm.log_user("%s", table.concat(findings, "\n"))
		return slurm.ERROR
	end
	local reason = changes
	if ok and changes then
		ok, reason = pcall(apply, job_desc, changes)
	end
	if not ok then
		slurm.log_error("sbridge: job of uid %s let through unchanged: %s", tostring(submit_uid), tostring(reason))
	end
	return slurm.SUCCESS
end

-- A user may change his own comment, but the request in it was fixed when the job was submitted.
local function keep_request(job_desc, job_rec, field)
	if job_desc[field] == nil then
		return
	end
	local _, word = split_request(job_rec[field])
	if word then
		job_desc[field] = joined((split_request(job_desc[field])), word)
	end
end

function slurm_job_modify(job_desc, job_rec, part_list, modify_uid)
	local ok, reason = pcall(function()
		keep_request(job_desc, job_rec, "comment")
		if REQUEST_FIELD ~= "comment" then
			keep_request(job_desc, job_rec, REQUEST_FIELD)
		end
	end)
	if not ok then
		slurm.log_error("sbridge: change by uid %s let through unchanged: %s", tostring(modify_uid), tostring(reason))
	end
	return slurm.SUCCESS
end

return slurm.SUCCESS
