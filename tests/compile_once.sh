# sh compile_once.sh FOLDER OBJECT COMMAND...: run COMMAND -o OBJECT, or copy the object that the same command made before.
set -e
folder=$1 object=$2
shift 2
made=$folder/$(printf '%s\n' "$@" | cksum | tr ' ' -).o
if [ ! -e "$made" ]; then
  "$@" -o "$made.$$"
  mv "$made.$$" "$made"
fi
cp "$made" "$object"
