# curl with an option: curl.sh OPTION ORIGIN UNLISTED
option=$1 origin=$2 unlisted=$3

call() {
    curl --silent --show-error --max-time 20 "$option" "$@"
}

# say LABEL [ARGUMENT…]: the answer's status, then its body.
say() {
    label=$1
    shift
    answer=$(call --write-out ' %{http_code}' "$@")
    echo "$label ${answer##* } ${answer% *}"
}

say GET "$origin/hello"
say POST --data hello "$origin/files"
echo "STREAM $(call --no-buffer "$origin/events" | grep -c '^data: ')"
say DENIED --data hello "$origin/readonly" | sed 's/{.*"reason":"\([a-z_]*\)".*}/\1/'
if call "$unlisted" 2>/dev/null; then echo "UNLISTED reached"; else echo "UNLISTED refused"; fi
