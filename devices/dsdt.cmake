# ACPI source to C arrays. Run in two ways:
#
#   include(dsdt.cmake)     defines add_aml_header(<target>): <target> gets aml.h, made at build time by
#                           iasl from dsdt.asl, serial.asl.in and the routes below, and the include path to it. aml.h holds
#                           aml_dsdt[], aml_com1[] and aml_com2[].
#   cmake -DOUT=<header> -DAML=<name>=<file>;... -P dsdt.cmake
#                           the second half of that: turns compiled AML into the header.

if(CMAKE_SCRIPT_MODE_FILE)
	set(text "/* Made by dsdt.cmake from compiled ACPI source. */\n")
	foreach(item IN LISTS AML)
		string(REGEX MATCH "^([^=]+)=(.+)$" matched "${item}")
		set(name "${CMAKE_MATCH_1}")
		file(READ "${CMAKE_MATCH_2}" hex HEX)
		string(REGEX REPLACE "(..)" "0x\\1," bytes "${hex}")
		string(REPEAT "0x..," 16 line)
		string(REGEX REPLACE "(${line})" "\\1\n" bytes "${bytes}")
		string(APPEND text "static const unsigned char ${name}[] = {\n${bytes}\n};\n")
	endforeach()
	file(WRITE "${OUT}" "${text}")
	return()
endif()

find_program(IASL iasl)
if(NOT IASL)
	message(FATAL_ERROR "iasl not found: install acpica-tools")
endif()

set(DSDT_SOURCE_DIR "${CMAKE_CURRENT_LIST_DIR}")

# Routes of PCI's interrupt pins (ACPI 5.0, 6.2.12): pin p of slot s is on wire (s + p) mod 4; wires:
# where each leads.
function(write_routes file)
	set(text "")
	foreach(slot RANGE 31)
		foreach(pin RANGE 3)
			math(EXPR wire "(${slot} + ${pin}) % 4")
			math(EXPR address "${slot} * 65536 + 65535" OUTPUT_FORMAT HEXADECIMAL)
			list(GET ARGN ${wire} leads_to)
			string(APPEND text "Package () { ${address}, ${pin}, 0, ${leads_to} },\n")
		endforeach()
	endforeach()
	file(CONFIGURE OUTPUT "${file}" CONTENT "${text}" @ONLY)
endfunction()

function(add_aml_header target)
	set(dir "${CMAKE_CURRENT_BINARY_DIR}/aml")
	file(MAKE_DIRECTORY "${dir}")
	configure_file("${DSDT_SOURCE_DIR}/dsdt.asl" "${dir}/dsdt.asl" COPYONLY)
	write_routes("${dir}/apic.routes" 16 17 18 19)
	write_routes("${dir}/pic.routes" 10 11 10 11)
	foreach(port "COM1;1;0x3F8;4" "COM2;2;0x2F8;3")
		list(GET port 0 COM_NAME)
		list(GET port 1 COM_UID)
		list(GET port 2 COM_PORT)
		list(GET port 3 COM_IRQ)
		string(TOLOWER "${COM_NAME}" lower)
		configure_file("${DSDT_SOURCE_DIR}/serial.asl.in" "${dir}/${lower}.asl" @ONLY)
	endforeach()

	set(items "")
	set(files "")
	foreach(table dsdt com1 com2)
		add_custom_command(
			OUTPUT "${dir}/${table}.aml"
			COMMAND "${IASL}" -vs -p "${dir}/${table}" "${dir}/${table}.asl"
			DEPENDS "${dir}/${table}.asl" "${dir}/apic.routes" "${dir}/pic.routes"
			COMMENT "iasl ${table}.asl"
			VERBATIM)
		list(APPEND files "${dir}/${table}.aml")
		list(APPEND items "aml_${table}=${dir}/${table}.aml")
	endforeach()
	add_custom_command(
		OUTPUT "${dir}/aml.h"
		COMMAND "${CMAKE_COMMAND}" "-DOUT=${dir}/aml.h" "-DAML=${items}"
			-P "${DSDT_SOURCE_DIR}/dsdt.cmake"
		DEPENDS ${files} "${DSDT_SOURCE_DIR}/dsdt.cmake"
		COMMENT "aml.h"
		VERBATIM)
	target_sources(${target} PRIVATE "${dir}/aml.h")
	target_include_directories(${target} PRIVATE "${dir}")
endfunction()
