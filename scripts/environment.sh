# Sourced by the project's scripts. Sets `root` to the project's folder and `python` to the interpreter of its
# virtual environment, and defines `environment`, which makes and fills that environment.

unset CDPATH
root=$(cd -- "$(dirname -- "${BASH_SOURCE[0]}")/.." && pwd)
python=$root/.venv/bin/python

# environment [EXTRA ...]: the project, editable, with these extras, in .venv. Quick when that is so already.
environment() {
    local interpreter
    interpreter=$(_interpreter) || return
    # On standard error: standard output belongs to what the script is about to run.
    "$interpreter" "$root/scripts/environment.py" "$@" >&2
}

# The interpreter of .venv, if there is one; else $PYTHON; else the first good one on the PATH.
_interpreter() {
    local candidate
    if _is_good "$python"; then
        printf '%s\n' "$python"
        return
    fi
    if [ -n "${PYTHON-}" ]; then
        if _is_good "$PYTHON"; then
            printf '%s\n' "$PYTHON"
            return
        fi
        printf '%s\n' "PYTHON=$PYTHON is not a Python 3.11 or later with the modules venv and ensurepip." >&2
        return 1
    fi
    for candidate in python3 python3.13 python3.12 python3.11 python3.14 python; do
        if _is_good "$candidate"; then
            printf '%s\n' "$candidate"
            return
        fi
    done
    cat >&2 <<'MESSAGE'
No Python 3.11 or later (with the modules venv and ensurepip) was found on the PATH.
Install one, or name one: PYTHON=/path/to/python3.12. On Debian and Ubuntu the two modules
are in a package of their own: python3-venv.
MESSAGE
    return 1
}

_is_good() {
    "$1" -c 'import ensurepip, sys, venv; sys.exit(sys.version_info < (3, 11))' >/dev/null 2>&1
}
