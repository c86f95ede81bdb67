# Reads and checks variables from the environment or .env, because errors from Compose's own parser are hard to understand.
# shellcheck shell=sh

# Prints the value of variable $1 as Compose finds it: in the environment, else in .env.
given() {
  eval "value=\${$1-}"
  [ -n "$value" ] || value=$(sed -n "s/^ *\(export  *\)\{0,1\}$1 *= *//p" .env 2>/dev/null | tail -n 1 | sed 's/ *#.*//; s/ *$//')
  value=${value#[\"\']}
  printf '%s\n' "${value%[\"\']}"
}

refuse() { printf '%s\n' "$@" >&2; exit 1; }

# Refuses a value of $1 that is set and is not a whole number.
need_number() {
  case $2 in
    *[!0-9]*) refuse "$1 is $2: write a whole number, for example $1=4." ;;
  esac
}

# Refuses a value of $1 that is set and is neither a port nor a range of ports.
need_ports_in() {
  for port in "${2%-*}" "${2#*-}"; do
    case $port in
      '') [ -z "$2" ] || refuse "$1 is $2: write a port from 1 to 65535, or a range such as 8000-8001." ;;
      *[!0-9]* | ??????*) refuse "$1 is $2: write a port from 1 to 65535, or a range such as 8000-8001." ;;
      *) [ "$port" -ge 1 ] && [ "$port" -le 65535 ] ||
        refuse "$1 is $2: write a port from 1 to 65535, or a range such as 8000-8001." ;;
    esac
  done
}
