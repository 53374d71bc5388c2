# curl with the options it is given: curl.sh ORIGIN UNLISTED [OPTION…]
origin=$1 unlisted=$2
shift 2
answer() { curl --silent --show-error --max-time 20 "$@"; }
echo "GET $(answer --write-out ' %{http_code}' "$@" "$origin/hello")"
echo "POST $(answer --write-out ' %{http_code}' "$@" --data hello "$origin/files")"
echo "DENIED $(answer --write-out ' %{http_code}' "$@" --data hello "$origin/readonly" |
    sed 's/.*"reason":"\([a-z_]*\)".* \([0-9]*\)$/\1 \2/')"
echo "STREAM $(answer --no-buffer "$@" "$origin/events" | grep -c '^data: ')"
if answer "$@" "$unlisted" 2>/dev/null; then echo "UNLISTED reached"; else echo "UNLISTED refused"; fi
