#!/usr/bin/env bash
#
# Starts Triptych from its checkout: makes the environment when it has to, checks what can be checked
# before anything heavy starts, then becomes the Python process, so that signals reach that one.
#
# Requirements are installed without the project itself. The packages here are run from the checkout, and a
# copy or a link of one called `kernels` in site-packages would be one more thing that could be imported by
# mistake; a checkout that is moved or copied goes on working too.
#
# Needs bash 4.4, coreutils and Python 3.11 or newer with venv.

set -u -o pipefail

readonly EXIT_USAGE=2 EXIT_PYTHON=10 EXIT_VENV=11 EXIT_NETWORK=12 EXIT_DISK=13 EXIT_INSTALL=14 \
  EXIT_PACKAGES=15 EXIT_ADDRESS=16 EXIT_GPU=17 EXIT_MODEL=18 EXIT_KERNELS=19 EXIT_CHECK=20

say() { printf 'launch.sh: %s\n' "$*" >&2; }

die() {
  local code=$1
  shift
  say "$*"
  exit "$code"
}

help_overall() {
  cat <<'TEXT'
Usage: ./launch.sh COMMAND [flags]

  serve    start the server
  demo     show what the server does, on this machine, in a few minutes
  test     run the test suite
  models   list the models that can be served, or check one
  keys     make, list and remove API keys
  profile  measure what a model's stages cost on a device

./launch.sh COMMAND --help tells a command's flags. The first run makes .venv in the checkout.

Exit codes: 2 wrong usage, 10 no suitable Python, 11 Python without venv, 12 no package index reached,
13 disk full, 14 install failed, 15 packages missing (--python), 16 cannot listen on host and port,
17 no such GPU, 18 unknown model, 19 the environment holds the distribution "kernels", 20 the model
failed its check (--check);
anything else comes from the program started.
TEXT
}

help_workers() {
  cat <<'TEXT'
  --gpus LIST    one worker for each of these GPUs: 0-7, or 0,2,5, or 0-3,6
  --cpu N        N workers on the CPU
                 with neither: all GPUs there are, else 2 CPU workers (1 on a single core)
  --model NAME   the model (default: triptych-emoji; ./launch.sh models lists them)
TEXT
}

help_keys() {
  cat <<'TEXT'
Usage: ./launch.sh keys add NAME --api-keys FILE [flags]
       ./launch.sh keys list | remove NAME --api-keys FILE

  add NAME       makes a key and prints it, this once; FILE keeps its hash. --admin, --days N and
                 --max-in-flight N say what it may do
  list           the names and what they may do
  remove NAME    the key holds no longer, also for a server that runs

TEXT
  help_python
  cat <<'TEXT'

Arguments go to `python -m gateway keys`; `./launch.sh keys -- --help` lists them.
TEXT
}

help_profile() {
  cat <<'TEXT'
Usage: ./launch.sh profile [MODEL] [flags]

Measures what the stages of MODEL (default: triptych-emoji) cost on a device: seconds and peak memory by
size and batch, weights, loads. Prints a table, and keeps it for `serve`, which else measures by itself.

  --device D     cpu or cuda:N (default: the first GPU, else the CPU)
  --json FILE    write what was measured to FILE as well
  --profiles DIR where it is kept
TEXT
  help_python
  cat <<'TEXT'

Arguments go to `python -m gateway profile`; `./launch.sh profile -- --help` lists them.
TEXT
}

help_python() {
  cat <<'TEXT'
  --python PATH  use this environment's Python and install nothing
  -h, --help     this text
TEXT
}

help_serve() {
  cat <<'TEXT'
Usage: ./launch.sh serve [flags] [flags of the gateway]

Starts the server: one gateway, one worker process for each device. Ctrl-C or SIGTERM stops it in order.

  --host H       address to listen on (default: 127.0.0.1)
  --port P       port to listen on (default: 8000)
  --check        first run the model in pieces and resumed against the whole, as `models check` does,
                 and do not serve it if a bit differs
TEXT
  help_workers
  help_python
  cat <<'TEXT'

Other flags go to `python -m gateway`; `./launch.sh serve -- --help` lists them. What they set can also
be set in a file (--config FILE) and by variables (TRIPTYCH_PORT and so on). --model may be repeated.
TEXT
}

help_demo() {
  cat <<'TEXT'
Usage: ./launch.sh demo [flags] [flags of the demo]

Starts a server of its own, sends it requests and shows what became of them.

TEXT
  help_workers
  help_python
  cat <<'TEXT'

Other flags go to `python -m bench demo`; `./launch.sh demo -- --help` lists them.
TEXT
}

help_test() {
  cat <<'TEXT'
Usage: ./launch.sh test [flags] [arguments of pytest]

Runs the test suite on all cores (at most 8 processes), or what the arguments select (paths are
relative to the checkout) in one process:
  ./launch.sh test tests/launch -k port

TEXT
  help_python
  cat <<'TEXT'

Other arguments go to pytest; `./launch.sh test -- --help` lists them. OMP_NUM_THREADS and its like
are set to half the cores (at most 4) unless they are set already.
TEXT
}

help_models() {
  cat <<'TEXT'
Usage: ./launch.sh models [list | check NAME] [flags]

  list           the models that can be served (the default)
  check NAME     derives that model's stages, loads it, and compares it in pieces, and paused and
                 resumed, with the whole pipeline, bit for bit; ends with 0 if it can be served, else 1

  --catalogue F  a further file of models; may be given several times
  --device D     for check: cpu or cuda:N (default: the first GPU, else the CPU)
TEXT
  help_python
  cat <<'TEXT'

Arguments of `list` go to `python -m pipelines`, those of `check` to `python -m worker.check`.
TEXT
}

# Sets `gpus` from "0-3,6" to (0 1 2 3 6).
parse_gpus() {
  local list=$1 part first last index
  local -A seen=()
  [[ $list =~ ^[0-9]{1,3}(-[0-9]{1,3})?(,[0-9]{1,3}(-[0-9]{1,3})?)*$ ]] ||
    die "$EXIT_USAGE" "--gpus wants a list such as 0-7 or 0,2,5, not '$list'"
  for part in ${list//,/ }; do
    first=$((10#${part%-*})) last=$((10#${part#*-}))
    ((first <= last)) || die "$EXIT_USAGE" "--gpus: the range $part runs backwards"
    for ((index = first; index <= last; index++)); do
      [[ -z ${seen[$index]-} ]] || die "$EXIT_USAGE" "--gpus names GPU $index twice"
      seen[$index]=1
      gpus+=("$index")
    done
  done
}

# Splits the command line into the settings below and `rest`, which is passed on as it stands.
parse_arguments() {
  local own flag value
  case $command in
    serve) own='--python --model --gpus --cpu --host --port' ;;
    demo) own='--python --model --gpus --cpu' ;;
    *) own='--python' ;;
  esac
  while (($#)); do
    case $1 in
      -h | --help)
        "help_$command"
        exit 0
        ;;
      --)
        rest+=("${@:2}")
        break
        ;;
      --check)
        if [[ $command == serve ]]; then
          check_first=1
          shift
          continue
        fi
        ;;
    esac
    flag=${1%%=*}
    if [[ " $own " != *" $flag "* ]]; then
      rest+=("$1")
      shift
      continue
    fi
    if [[ $1 == *=* ]]; then
      value=${1#*=}
      shift
    else
      (($# > 1)) || die "$EXIT_USAGE" "$flag needs a value"
      value=$2
      shift 2
    fi
    [[ -n $value ]] || die "$EXIT_USAGE" "$flag needs a value"
    case $flag in
      --python) given_python=$value ;;
      --model)
        # the first that is given takes the place of the default one; a demo has one model
        if ((models_given)) && [[ $command == serve ]]; then models+=("$value"); else models=("$value"); fi
        models_given=1
        ;;
      --host)
        host=$value
        given+=(--host "$host")
        ;;
      --gpus)
        gpus=()
        parse_gpus "$value"
        ;;
      --cpu)
        [[ $value =~ ^[1-9][0-9]{0,2}$ ]] || die "$EXIT_USAGE" "--cpu wants a number of workers, not '$value'"
        cpu_workers=$value
        ;;
      --port)
        if ! [[ $value =~ ^[0-9]{1,5}$ ]] || ((10#$value > 65535)); then
          die "$EXIT_USAGE" "--port wants a number from 0 to 65535, not '$value'"
        fi
        port=$((10#$value))
        given+=(--port "$port")
        ;;
    esac
  done
  if ((models_given)); then
    for value in "${models[@]}"; do given+=(--model "$value"); done
  fi
  ((${#gpus[@]} == 0 || cpu_workers == 0)) ||
    die "$EXIT_USAGE" "--gpus and --cpu exclude each other: a server's workers are all of one kind"
}

# Prints "3.11" for an interpreter that starts, nothing for one that does not (a version manager's shim).
python_version() { "$1" -c 'import sys; print("%d.%d" % sys.version_info[:2])' 2>/dev/null; }

is_suitable() { [[ $1 =~ ^3\.([0-9]+)$ ]] && ((BASH_REMATCH[1] >= 11)); }

# Sets `base_python` to the first suitable interpreter on PATH.
find_python() {
  local name version found=''
  for name in python3 python3.11 python3.12 python3.13 python3.14; do
    command -v "$name" >/dev/null || continue
    version=$(python_version "$name") || continue
    if is_suitable "$version"; then
      base_python=$name
      return
    fi
    found+="${found:+, }$name is $version"
  done
  die "$EXIT_PYTHON" "Python 3.11 or newer is needed; ${found:-there is no python3 on PATH}"
}

# Prints the requirements in pyproject.toml one a line, those of the extra $2 included; with "check" for $3,
# prints instead the version of the distribution `kernels` that the environment holds, if it does, and on a
# second line what it lacks.
readonly REQUIREMENTS='
import re, sys, tomllib
from importlib import metadata

def wanted(project, lines):
    for line in lines:
        own = re.fullmatch(project["name"] + r"\[(\w+)\]", line)
        if own:
            yield from wanted(project, project["optional-dependencies"][own[1]])
        else:
            yield line

def lack(line):
    name = re.match(r"[\w.-]+", line)[0]
    try:
        from packaging.requirements import Requirement
    except ImportError:
        Requirement = None
    if Requirement and (marker := Requirement(line).marker) and not marker.evaluate():
        return ""
    try:
        version = metadata.version(name)
    except metadata.PackageNotFoundError:
        return name
    if Requirement and not Requirement(line).specifier.contains(version, prereleases=True):
        return f"{line} (it has {version})"
    return ""

root, extra, task = sys.argv[1:]
with open(root + "/pyproject.toml", "rb") as file:
    project = tomllib.load(file)["project"]
asked = [project["name"] + f"[{extra}]"] if extra else []
lines = dict.fromkeys(wanted(project, project["dependencies"] + asked))
if task == "check":
    print(*{found.version for found in metadata.distributions(name="kernels")})
    print(", ".join(filter(None, map(lack, lines))))
else:
    print("\n".join(lines))
'

# The checkout's own `kernels` package and a distribution of that name would shadow each other.
refuse_kernels() {
  [[ -z $1 ]] ||
    die "$EXIT_KERNELS" "the environment holds the distribution kernels $1, which clashes with the package kernels here: run $python -m pip uninstall kernels"
}

# Takes --python as it is. Sets `python`.
use_given_python() {
  local version answer lacking extra=''
  python=$(command -v -- "$given_python") || die "$EXIT_PYTHON" "--python: '$given_python' is not there or is not a program"
  # one environment's bin folder is often on PATH for this command only, or named by a relative path
  [[ $python == /* ]] || python=$PWD/$python
  version=$(python_version "$python")
  is_suitable "$version" || die "$EXIT_PYTHON" "Python 3.11 or newer is needed; $python is ${version:-not a Python that starts}"
  case $command in
    demo) extra='bench' ;;
    test) extra='test' ;;
  esac
  answer=$("$python" -c "$REQUIREMENTS" "$root" "$extra" check && printf .) || exit 1
  refuse_kernels "${answer%%$'\n'*}"
  lacking=${answer#*$'\n'}
  lacking=${lacking%$'\n.'}
  [[ -z $lacking ]] || die "$EXIT_PACKAGES" "$python lacks $lacking"
}

dependencies_hash() { cat -- "$root/pyproject.toml" "$root/constraints.txt" | sha256sum | cut -c1-64; }

# Is .venv whole, made from today's dependency files, and does its Python still start as what it was?
# "dev" holds all that "bench" holds.
is_current() {
  local version stamp
  version=$(python_version "$venv/bin/python") || return 1
  for stamp in "$venv/.installed-dev" "$venv/.installed-$1"; do
    [[ -f $stamp && $(<"$stamp") == "$hash $version" ]] && return 0
  done
  return 1
}

# Runs a command, keeps its output in `output`, and says what is being downloaded if that is large.
run_quietly() {
  local line
  output=''
  while IFS= read -r line; do
    output+=$line$'\n'
    [[ $line =~ ^[[:space:]]*Downloading\ (.*/)?([^ /]+\ \([0-9.]{4,}\ [MG]B\)) ]] && say "  getting ${BASH_REMATCH[2]}"
  done < <("$@" 2>&1; printf 'exit %d' $?) || true
  # the last line has no newline, so `read` returned false with it in hand
  [[ $line == 'exit 0' ]]
}

is_full() {
  local avail_kib
  avail_kib=$(df -Pk -- "$1" 2>/dev/null | tail -n 1 | tr -s ' ' | cut -d ' ' -f 4)
  [[ $avail_kib =~ ^[0-9]+$ ]] && ((avail_kib < 1024))
}

# Turns a failed install into one line. $1 is what failed; the output of it is in `output`.
die_of_install() {
  local lines line errors=() tmp=${TMPDIR:-/tmp} full=''
  # venv hides why its pip failed, so the disks are looked at as well
  case $output in *'No space left on device'* | *'Errno 28'* | *'Disk quota exceeded'*) full=yes ;; esac
  if is_full "$root" || is_full "$tmp"; then full=yes; fi
  # a fresh .venv that failed is of no use and may be what filled the disk; one that was whole stays
  [[ -f $venv/.installed-bench ]] || rm -rf -- "$venv"
  if [[ -n $full ]]; then
    die "$EXIT_DISK" "the disk is full: .venv needs about 3 GB in $root (more with CUDA) and pip some in $tmp"
  fi
  case $output in
    *NewConnectionError* | *ConnectTimeoutError* | *ReadTimeoutError* | *ProxyError* | *NameResolutionError* | \
      *'name resolution'* | *'Network is unreachable'* | *'Connection refused'* | *'Max retries exceeded'*)
      die "$EXIT_NETWORK" "no network: pip reaches no package index; check the connection or the proxy, or use --python PATH"
      ;;
  esac
  # from pip's first error on: what follows says which requirements conflict
  mapfile -t lines <<<"$output"
  for line in "${lines[@]}"; do
    ((${#errors[@]})) || [[ $line =~ ^[[:space:]]*(ERROR|Error|error): ]] || continue
    [[ -z $line ]] || errors+=("$line")
  done
  ((${#errors[@]})) || errors=("${lines[@]}")
  printf '%s\n' "${errors[@]:0:5}" >&2
  die "$EXIT_INSTALL" "$1 failed"
}

# Creates an empty .venv. Refuses to delete one that it did not make.
make_venv() {
  "$base_python" -c 'import ensurepip, venv' 2>/dev/null ||
    die "$EXIT_VENV" "$base_python has no venv module (on Debian and Ubuntu: apt-get install python3-venv)"
  [[ -L $venv ]] || rmdir -- "$venv" 2>/dev/null
  if [[ -e $venv || -L $venv ]] && [[ ! -f $venv/.made-by-launch ]]; then
    die "$EXIT_INSTALL" "$venv is not of launch.sh's making: move it away, or use it with --python $venv/bin/python"
  fi
  rm -rf -- "$venv"
  output=$({ mkdir -- "$venv" && : >"$venv/.made-by-launch"; } 2>&1) || die_of_install "making $venv"
  run_quietly "$base_python" -m venv -- "$venv" || die_of_install "making $venv"
}

# Waits until no other launch.sh installs here. Descriptor 9 holds the lock, pip inherits it: a launch.sh
# that is killed leaves the lock with the pip it started, and with nobody once that has ended.
lock() {
  exec 9<"$root/pyproject.toml"
  "$base_python" -c '
import fcntl
try:
    fcntl.flock(9, fcntl.LOCK_EX | fcntl.LOCK_NB)
except BlockingIOError:
    raise SystemExit(1)
except OSError:
    pass  # a file system without locks
' && return
  say "waiting for another launch.sh that is making .venv"
  "$base_python" -c 'import fcntl; fcntl.flock(9, fcntl.LOCK_EX)'
}

# Makes sure that .venv holds the extra $1 and not what clashes. Sets `python`.
use_venv() {
  local extra=$1 hash foreign
  python=$venv/bin/python
  hash=$(dependencies_hash) || die 1 "cannot read pyproject.toml and constraints.txt in $root"
  is_current "$extra" || fill_venv "$extra"
  foreign=$("$python" -c '
from importlib import metadata
print(*{found.version for found in metadata.distributions(name="kernels")})
') || exit 1
  refuse_kernels "$foreign"
}

fill_venv() {
  local extra=$1 requirements
  [[ -n $base_python ]] || find_python
  lock
  if ! is_current "$extra"; then
    if is_current bench; then
      say "adding the development packages to .venv (once, about a minute)"
    else
      [[ -e $venv/.made-by-launch ]] && say "the dependencies or Python changed, or an install was interrupted"
      say "making .venv (once, about 2 minutes)"
      make_venv
    fi
    requirements=$("$python" -c "$REQUIREMENTS" "$root" "$extra" list) || exit 1
    mapfile -t requirements <<<"$requirements"
    run_quietly "$python" -m pip install --no-input --disable-pip-version-check --progress-bar off \
      -c "$root/constraints.txt" -- "${requirements[@]}" || die_of_install "pip install"
    # last of all: without it .venv counts as unfinished and is made again
    printf '%s %s' "$hash" "$(python_version "$python")" >"$venv/.installed-$extra" 2>/dev/null ||
      die_of_install "writing to $venv"
  fi
  exec 9<&-
}

# Binds as the server will, so that what is found is what the server would meet.
check_address() {
  local problem
  problem=$("$1" -c '
import errno, socket, sys

def fail(problem):
    print(problem)
    raise SystemExit(1)

host, port = sys.argv[1], int(sys.argv[2])
try:
    found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)
except OSError as error:
    fail(f"cannot listen on {host}: {error.strerror}")
problems = []
for family, kind, protocol, _, address in found:
    with socket.socket(family, kind, protocol) as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        if family == socket.AF_INET6:
            probe.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
        try:
            probe.bind(address)
            probe.listen()
        except OSError as error:
            if error.errno == errno.EADDRINUSE:
                fail(f"port {port} on {host} is in use: stop what listens there or choose another --port")
            problems.append(f"cannot listen on {host} port {port}: {error.strerror}")
# localhost is often two addresses of which the machine has one
if len(problems) == len(found):
    fail(problems[0])
' "$host" "$port") || die "$EXIT_ADDRESS" "${problem:-cannot check host $host and port $port}"
}

# Prints the number of GPUs, or nothing where there is no nvidia-smi to ask.
# CUDA_VISIBLE_DEVICES narrows them: the numbers given to --gpus count within it, as they do in torch.
count_gpus() {
  local line count=0 listed=0 devices device
  while IFS= read -r line; do
    [[ $line == 'GPU '[0-9]* ]] && ((count += 1))
  done < <(nvidia-smi -L 2>/dev/null)
  if [[ -n ${CUDA_VISIBLE_DEVICES+set} ]]; then
    IFS=, read -r -a devices <<<"$CUDA_VISIBLE_DEVICES"
    for device in "${devices[@]}"; do
      [[ $device == -1 ]] && break
      ((listed += 1))
    done
    if ((listed == 0)); then
      printf 0
      return
    fi
    ((listed < count)) && count=$listed
  fi
  # a machine with the tool and no working driver has no GPU to use
  command -v nvidia-smi >/dev/null && printf '%d' "$count"
}

check_gpus() {
  local count=$1 index
  for index in "${gpus[@]}"; do
    ((index < count)) && continue
    case $count in
      0) die "$EXIT_GPU" "there is no GPU $index: this machine shows none (--cpu N uses the CPU)" ;;
      1) die "$EXIT_GPU" "there is no GPU $index: this machine shows one, GPU 0" ;;
      *) die "$EXIT_GPU" "there is no GPU $index: this machine shows $count, 0 to $((count - 1))" ;;
    esac
  done
}

# nproc heeds OMP_NUM_THREADS, which is about threads in one process
count_cores() { env -u OMP_NUM_THREADS -u OMP_THREAD_LIMIT nproc; }

torch_gpus() { "$python" -c 'import torch; print(torch.cuda.device_count())' 2>/dev/null || printf 0; }

# Sets `gpus` or `cpu_workers` where neither was given.
choose_workers() {
  local count=$1
  ((${#gpus[@]} || cpu_workers)) && return
  if ((count > 0)); then
    mapfile -t gpus < <(seq 0 $((count - 1)))
    say "using all $count GPUs (--gpus chooses)"
    return
  fi
  cpu_workers=2
  (($(count_cores) > 1)) || cpu_workers=1
  say "no GPU found: $cpu_workers CPU $( ((cpu_workers == 1)) && printf worker || printf workers) (--cpu chooses)"
}

# Does a file or a variable set what the gateway serves?
is_configured() {
  local word
  [[ -z $(compgen -e TRIPTYCH_) ]] || return 0
  for word in "${rest[@]}"; do
    [[ $word != --config && $word != --config=* ]] || return 0
  done
  return 1
}

# Asks the gateway what holds in the end, and takes from its answer what is checked here.
take_configuration() {
  local answer name part
  answer=$("$python" -m gateway --check-config "${given[@]}" "${workers[@]}" "${rest[@]}") || exit
  answer=$'\n'$answer
  [[ $answer =~ $'\nhost = "'([^\"]*) ]] && host=${BASH_REMATCH[1]}
  [[ $answer =~ $'\nport = '([0-9]+) ]] && port=${BASH_REMATCH[1]}
  for name in models catalogues; do
    [[ $answer =~ $'\n'$name' = ['([^$'\n']*)']' ]] || continue
    part=${BASH_REMATCH[1]}
    [[ $name == models ]] && models=()
    while [[ $part =~ ^\"([^\"]*)\"(, )?(.*)$ ]]; do
      part=${BASH_REMATCH[3]}
      if [[ $name == models ]]; then models+=("${BASH_REMATCH[1]}"); else catalogues+=(--catalogue "${BASH_REMATCH[1]}"); fi
    done
  done
  # what is set has its source behind it
  [[ $answer =~ $'\n'(gpus|cpu)' = '[^$'\n']*'  # ' ]] && devices_are_set=1
}

# Leaves the further catalogues of the command line, which hold models that the built-in one does not, in
# `catalogues`.
check_models() {
  local names index model
  for ((index = 0; index < ${#rest[@]}; index++)); do
    case ${rest[index]} in
      --catalogue) catalogues+=(--catalogue "${rest[index + 1]-}") ;;
      --catalogue=*) catalogues+=("${rest[index]}") ;;
    esac
  done
  names=$("$python" -m pipelines names "${catalogues[@]}") || die 1 "the catalogue of models cannot be read"
  for model in "${models[@]}"; do
    [[ $'\n'$names$'\n' == *$'\n'"$model"$'\n'* ]] ||
      die "$EXIT_MODEL" "there is no model '$model'; known: ${names//$'\n'/, }"
  done
}

# Sets `workers` from `gpus` and `cpu_workers`.
name_workers() {
  local list
  if ((cpu_workers)); then
    workers=(--cpu "$cpu_workers")
  elif ((${#gpus[@]})); then
    printf -v list '%s,' "${gpus[@]}"
    workers=(--gpus "${list%,}")
  fi
}

run_server_command() {
  local count workers=() configured=0 devices_are_set=0 model
  [[ $command == serve ]] && is_configured && configured=1
  if [[ $command == serve ]] && ((! configured)); then
    # before an install of minutes, not after it
    if [[ -n $given_python ]]; then
      check_address "$python"
    elif [[ -n $(python_version "$venv/bin/python") ]]; then
      check_address "$venv/bin/python"
    else
      find_python
      check_address "$base_python"
    fi
  fi
  count=$(count_gpus)
  [[ -z $count ]] || check_gpus "$count"
  [[ -n $given_python ]] || use_venv bench
  if [[ -z $count ]]; then
    # containers often have the devices and not the tool; torch takes seconds to ask
    if ((${#gpus[@]})) || [[ -e /dev/nvidiactl && cpu_workers -eq 0 ]]; then count=$(torch_gpus); else count=0; fi
    check_gpus "$count"
  fi
  name_workers
  if ((configured)); then
    take_configuration
    check_address "$python"
  fi
  check_models
  if ((! devices_are_set)); then
    choose_workers "$count"
    name_workers
  fi
  if ((check_first)); then
    for model in "${models[@]}"; do
      "$python" -m worker.check "$model" "${catalogues[@]}" ||
        die "$EXIT_CHECK" "the model '$model' failed its check and is not served"
    done
  fi
  if ((configured)); then
    # nothing but what was given, so that the gateway can say where each setting is from
    exec "$python" -m gateway "${given[@]}" "${workers[@]}" "${rest[@]}"
  fi
  if [[ $command == serve ]]; then
    given=(--host "$host" --port "$port")
    for model in "${models[@]}"; do given+=(--model "$model"); done
    exec "$python" -m gateway "${given[@]}" "${workers[@]}" "${rest[@]}"
  fi
  exec "$python" -m bench demo "${workers[@]}" --model "${models[0]}" "${rest[@]}"
}

run_tests() {
  local threads name cores
  [[ -n $given_python ]] || use_venv dev
  cores=$(count_cores)
  ((${#rest[@]})) || rest=(-n $((cores < 8 ? cores : 8)) --dist worksteal)
  threads=$((cores / 2))
  ((threads >= 1)) || threads=1
  ((threads <= 4)) || threads=4
  # several processes run at a time in these tests: with every core to each, they only wait for one another
  for name in OMP_NUM_THREADS MKL_NUM_THREADS OPENBLAS_NUM_THREADS; do
    export "$name=${!name:-$threads}"
  done
  export TOKENIZERS_PARALLELISM=${TOKENIZERS_PARALLELISM:-false}
  cd -- "$root" || exit 1
  exec "$python" -m pytest "${rest[@]}"
}

run_models() {
  local index
  [[ -n $given_python ]] || use_venv bench
  ((${#rest[@]})) || rest=(list)
  for index in "${!rest[@]}"; do
    [[ ${rest[index]} == check ]] || continue
    unset "rest[index]"
    exec "$python" -m worker.check "${rest[@]}"
  done
  exec "$python" -m pipelines "${rest[@]}"
}

run_keys() {
  [[ -n $given_python ]] || use_venv bench
  exec "$python" -m gateway keys "${rest[@]}"
}

run_profile() {
  local count word device=()
  count=$(count_gpus)
  [[ -n $given_python ]] || use_venv bench
  if [[ -z $count && -e /dev/nvidiactl ]]; then count=$(torch_gpus); fi
  ((${count:-0} == 0)) || device=(--device cuda:0)
  for word in "${rest[@]}"; do
    [[ $word != --device && $word != --device=* ]] || device=()
  done
  exec "$python" -m gateway profile "${device[@]}" "${rest[@]}"
}

main() {
  local script
  script=$(readlink -f -- "${BASH_SOURCE[0]}") || exit 1
  root=$(dirname -- "$script")
  venv=$root/.venv
  python='' base_python='' output=''
  given_python='' host=127.0.0.1 port=8000 cpu_workers=0 models=(triptych-emoji) models_given=0 gpus=() rest=()
  catalogues=() given=() check_first=0
  (($#)) || set -- --help
  command=$1
  shift
  case $command in
    -h | --help | help)
      help_overall
      exit 0
      ;;
    serve | demo | test | models | keys | profile) ;;
    -*)
      die "$EXIT_USAGE" "a command comes first (serve, demo, test, models, keys, profile), not '$command'; see ./launch.sh --help"
      ;;
    *) die "$EXIT_USAGE" "unknown command '$command': serve, demo, test, models, keys or profile; see ./launch.sh --help" ;;
  esac
  parse_arguments "$@"
  # The checkout is on the path and the current directory is not, so that files named on the command line
  # are looked for where the user is, and a folder there called `bench` or `worker` is not taken for ours.
  export PYTHONPATH=$root${PYTHONPATH:+:$PYTHONPATH} PYTHONSAFEPATH=1
  [[ -z $given_python ]] || use_given_python
  case $command in
    serve | demo) run_server_command ;;
    test) run_tests ;;
    models) run_models ;;
    keys) run_keys ;;
    profile) run_profile ;;
  esac
}

main "$@"
